#include "streams.metal"

// Second launch of hc_head: the weighted sum of the streams, and the final norm.

// body
// streams [B, S, N, D], partials [B S, SLICES, N + 1], base [N], scale [1], norm_weight [D]
// -> hidden [B, S, D]; a threadgroup has one token.
threadgroup float pre[N];
threadgroup float scratch[32];
uint thread_index = thread_position_in_threadgroup.x, token = threadgroup_position_in_grid.x;
if (thread_index < 32) {
  Lanes<N> mix = mix_rows<N, D, N, SLICES>(
      partials + size_t(token) * SLICES * (N + 1), thread_index, norm_eps);
  keep_pre<N>(pre, mix, scale[0], base, hc_eps, thread_index);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
collapse_streams<N, D, THREADS, OFFICIAL>(
    streams + size_t(token) * N * D, pre, norm_weight, hidden + size_t(token) * D, norm_eps,
    scratch, thread_index);
