#include "streams.metal"

// Second launch of hc_pre and hc_post_pre: from partial sums to what the sublayer needs.

// body
// streams [B, S, N, D], partials [B S, M + 1, SLICES], base [M], scale [3], norm_weight [D]
// -> normed [B, S, D], post [B, S, N], comb [B, S, N, N]
//
// The first threadgroups do post and Sinkhorn, a simdgroup for each token: that takes longest, and
// the collapse needs only pre. The others collapse one token each. All simdgroups share the sums
// over slices.
constexpr int M = (2 + N) * N;
constexpr int SIMDGROUPS = THREADS / 32;
constexpr int CHANNELS = (D + THREADS - 1) / THREADS;  // of a thread
threadgroup float sums[SIMDGROUPS * (M + 1)];
threadgroup float scratch[32];
uint thread_index = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup;
uint simdgroup = simdgroup_index_in_threadgroup;
uint group = threadgroup_position_in_grid.x, tokens = partials_shape[0];
uint mixers = (tokens + SIMDGROUPS - 1) / SIMDGROUPS;

if (group < mixers) {
  uint first = group * SIMDGROUPS, token = first + simdgroup;
  sum_slices<SLICES, SIMDGROUPS>(
      sums, partials + size_t(first) * (M + 1) * SLICES,
      min(uint(SIMDGROUPS), tokens - first) * (M + 1), simdgroup, lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (token < tokens) {  // a whole simdgroup or none of it
    auto own = sums + simdgroup * (M + 1);
    if (lane < N) {
      float mix = mix_row<N, D>(own, N + lane, norm_eps);
      post[token * N + lane] = 2.0f * stream_gate(fma(mix, scale[1], base[N + lane]));
    }

    Lanes<N * N> logits;
    for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
      uint row = min(2 * N + 32 * slot + lane, uint(M - 1));
      logits.at[slot] = fma(mix_row<N, D>(own, row, norm_eps), scale[2], base[row]);
    }
    logits = sinkhorn<N>(logits, iters, lane, hc_eps);
    for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
      uint entry = lane + 32 * slot;
      if (entry < N * N) comb[token * N * N + entry] = logits.at[slot];
    }
  }
} else {
  uint token = group - mixers;
  // Loaded first, so that streams and sums do not wait for each other.
  auto x = load_token<N, D, THREADS, CHANNELS>(
      streams + size_t(token) * N * D, thread_index);
  sum_slices<SLICES, SIMDGROUPS>(
      sums, partials + size_t(token) * (M + 1) * SLICES, N + 1, simdgroup, lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  auto pre = stream_weights<N, D>(sums, scale[0], base, norm_eps, hc_eps, lane);
  collapse_streams<D, THREADS, OFFICIAL>(
      x, pre, norm_weight, normed + size_t(token) * D, norm_eps, scratch, thread_index);
}
