// Reductions over one threadgroup. Pointers are template types, so that one text serves Metal, where
// they carry an address space, and CUDA, where they do not.

// Sum over the threads of a threadgroup, the same value in every thread. `scratch` has a float for
// every simdgroup; it may be used again after the next threadgroup barrier.
template <typename Scratch>
float block_sum(float value, Scratch scratch, uint thread_index, uint threads) {
  value = simd_sum(value);
  if (threads <= 32) return value;
  if (thread_index % 32 == 0) scratch[thread_index / 32] = value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint lane = thread_index % 32;
  return simd_sum(lane < (threads + 31) / 32 ? scratch[lane] : 0.0f);
}

// The largest value over the threads of a threadgroup; `scratch` as above.
template <typename Scratch>
float block_max(float value, Scratch scratch, uint thread_index, uint threads) {
  value = simd_max(value);
  if (threads <= 32) return value;
  if (thread_index % 32 == 0) scratch[thread_index / 32] = value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint lane = thread_index % 32;
  return simd_max(lane < (threads + 31) / 32 ? scratch[lane] : -INFINITY);
}
