#include "streams.metal"

// First launch of hc_pre and hc_head: partial sums of the mix.

// body
// streams [B, S, N, D], fn [M, N D] -> partials [B S, M + 1, slices]; a threadgroup has TOKENS
// tokens and WIDTH channels of each stream.
constexpr int THREADS = 32 * SIMDGROUPS, ROWS = (M + SIMDGROUPS - 1) / SIMDGROUPS;
threadgroup float tile[TOKENS * N * WIDTH];
uint thread_index = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup;
uint tokens = streams_shape[0] * streams_shape[1];
Slice slice = slice_of<TOKENS, WIDTH>(threadgroup_position_in_grid.x, tokens, D);
auto weights =
    load_weights<ROWS, N, D, M, WIDTH>(fn, slice, simdgroup_index_in_threadgroup, lane);

for (uint i = thread_index; i < TOKENS * WIDTH; i += THREADS) {
  uint token = slice.first_token + i / WIDTH, d = slice.first_channel + i % WIDTH;
  Streams<N> x = {};
  if (token < tokens && d < D) x = load_streams<N>(streams + size_t(token) * N * D, D, d);
  store_streams(tile + i / WIDTH * N * WIDTH, x, WIDTH, i % WIDTH);
}
threadgroup_barrier(mem_flags::mem_threadgroup);

mix_slice<TOKENS, SIMDGROUPS, M>(
    tile, weights, partials, slice, simdgroup_index_in_threadgroup, lane);
