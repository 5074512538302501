#include "streams.metal"

// A sublayer's output goes to every stream, the old streams mix.

// body
// y [B, S, D], streams [B, S, N, D], post [B, S, N], comb [B, S, N, N] -> mixed [B, S, N, D]; a
// thread has one channel of a token. With EXPERTS routed [B, S, EXPERTS, D], y is the shared
// expert's output; without, routed is not read.
constexpr uint TILES = (D + THREADS - 1) / THREADS;
uint token = threadgroup_position_in_grid.x / TILES;
uint d = threadgroup_position_in_grid.x % TILES * THREADS + thread_position_in_threadgroup.x;
if (d < D) {
  float output = y[size_t(token) * D + d];
  if (EXPERTS > 0) {
    float sum = 0.0f;
    for (uint e = 0; e < EXPERTS; e++) sum += routed[(size_t(token) * EXPERTS + e) * D + d];
    output += sum;
    output = OFFICIAL ? round_bf16(output) : output;
  }
  Streams<N> x = load_streams<N>(streams + size_t(token) * N * D, D, d);
  x = expand_streams<OFFICIAL>(output, x, post + token * N, comb + token * N * N);
  store_streams(mixed + size_t(token) * N * D, x, D, d);
}
