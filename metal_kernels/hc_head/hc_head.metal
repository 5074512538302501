#include "streams.metal"

// Second launch of hc_head: the weighted sum of the streams, and the final norm.

// body
// streams [B, S, N, D], partials [B S, N + 1, SLICES], base [N], scale [1], norm_weight [D]
// -> hidden [B, S, D]; a threadgroup has one token.
constexpr int CHANNELS = (D + THREADS - 1) / THREADS;  // of a thread
threadgroup float sums[N + 1];
threadgroup float scratch[32];
uint thread_index = thread_position_in_threadgroup.x, token = threadgroup_position_in_grid.x;
uint lane = thread_index_in_simdgroup;
auto x = load_token<N, D, THREADS, CHANNELS>(
    streams + size_t(token) * N * D, thread_index);
sum_slices<SLICES, THREADS / 32>(
    sums, partials + size_t(token) * (N + 1) * SLICES, N + 1, simdgroup_index_in_threadgroup, lane);
threadgroup_barrier(mem_flags::mem_threadgroup);
auto pre = stream_weights<N, D>(sums, scale[0], base, norm_eps, hc_eps, lane);
collapse_streams<D, THREADS, OFFICIAL>(
    x, pre, norm_weight, hidden + size_t(token) * D, norm_eps, scratch, thread_index);
