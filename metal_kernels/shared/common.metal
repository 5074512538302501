// Functions that several kernels use. Pointers are template types, so that one text serves Metal,
// where they carry an address space, and CUDA, where they do not.
//
// Functions that Metal has in two qualities are called as precise::exp and so on: without that word
// MLX's kernels get Metal's default, the fast ones, whose log near 1 is good to 2^-21 and whose max
// of NaN is anything.

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

// log(1 + e^x): the exponent is never positive, so nothing overflows. NaN stays NaN.
float softplus(float x) {
  float tail = precise::exp(-fabs(x));
  float sum = 1.0f + tail;
  // log(1 + tail), exact to float32 also where 1 + tail rounds.
  float log1p_tail = sum == 1.0f ? tail : precise::log(sum) * (tail / (sum - 1.0f));
  return (x > 0.0f ? x : 0.0f) + log1p_tail;
}

// The score of an expert: sqrt(softplus(logit)).
float expert_score(float logit) { return precise::sqrt(softplus(logit)); }
