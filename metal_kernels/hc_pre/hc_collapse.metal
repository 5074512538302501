#include "streams.metal"

// Second launch of hc_pre and hc_post_pre: from partial sums to what the sublayer needs.

// body
// streams [B, S, N, D], partials [B S, SLICES, M + 1], base [M], scale [3], norm_weight [D]
// -> normed [B, S, D], post [B, S, N], comb [B, S, N, N]
//
// The first threadgroups do post and Sinkhorn, a simdgroup for each token: that takes longest, and
// the collapse needs only pre. The others collapse one token each.
constexpr int M = (2 + N) * N;
constexpr int SIMDGROUPS = THREADS / 32;
threadgroup float pre[N];
threadgroup float scratch[32];
uint thread_index = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup;
uint group = threadgroup_position_in_grid.x, tokens = partials_shape[0];
uint mixers = (tokens + SIMDGROUPS - 1) / SIMDGROUPS;

if (group < mixers) {
  uint token = group * SIMDGROUPS + simdgroup_index_in_threadgroup;
  if (token < tokens) {  // a whole simdgroup or none of it
    Lanes<M> mix = mix_rows<N, D, M, SLICES>(
        partials + size_t(token) * SLICES * (M + 1), lane, norm_eps);

    float own = number_at(mix, N + lane);
    if (lane < N) post[token * N + lane] = 2.0f * stream_gate(fma(own, scale[1], base[N + lane]));

    Lanes<N * N> logits;
    for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
      uint row = min(2 * N + 32 * slot + lane, uint(M - 1));
      logits.at[slot] = fma(number_at(mix, row), scale[2], base[row]);
    }
    logits = sinkhorn<N>(logits, iters, lane, hc_eps);
    for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
      uint entry = lane + 32 * slot;
      if (entry < N * N) comb[token * N * N + entry] = logits.at[slot];
    }
  }
} else {
  uint token = group - mixers;
  if (thread_index < 32) {
    Lanes<M> mix = mix_rows<N, D, M, SLICES>(
        partials + size_t(token) * SLICES * (M + 1), lane, norm_eps);
    keep_pre<N>(pre, mix, scale[0], base, hc_eps, lane);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  collapse_streams<N, D, THREADS, OFFICIAL>(
      streams + size_t(token) * N * D, pre, norm_weight, normed + size_t(token) * D, norm_eps,
      scratch, thread_index);
}
