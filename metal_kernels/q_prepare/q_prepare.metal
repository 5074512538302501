#include "bfloat16.metal"
#include "lanes.metal"

// Queries of attention are normed and rotated; index queries rotated, transformed and rounded.

// body
// projected [B, S, heads WIDTH + index_heads INDEX_WIDTH] -> q [B, S, heads, WIDTH], index_q
// [B, S, index_heads, INDEX_WIDTH]. A simdgroup has one head of one token, in registers; no
// threadgroup memory, no barrier.
constexpr uint COUNT = (WIDTH + 31) / 32;
constexpr uint INDEX_COUNT = (INDEX_WIDTH + 31) / 32;
uint lane = thread_position_in_threadgroup.x;
uint head = thread_position_in_grid.y;
uint token = threadgroup_position_in_grid.x;
uint H = heads, Hi = index_heads, P = cos_shape[1];
auto row = projected + size_t(token) * projected_shape[2];
auto cosines = cos + token % cos_shape[0] * P;
auto sines = sin + token % cos_shape[0] * P;
if (head < H) {
  float x[COUNT];
  float squares = 0.0f;
#pragma unroll
  for (uint j = 0; j < COUNT; j++) {
    uint dim = lane + 32 * j;
    x[j] = dim < WIDTH ? row[head * WIDTH + dim] : 0.0f;
    squares += x[j] * x[j];
  }
  float factor = precise::rsqrt(simd_sum(squares) / WIDTH + eps);
#pragma unroll
  for (uint j = 0; j < COUNT; j++) {
    x[j] *= factor;
    if (OFFICIAL) x[j] = round_bf16(x[j]);
  }
  rotate_lanes<WIDTH>(x, cosines, sines, P, lane);
#pragma unroll
  for (uint j = 0; j < COUNT; j++) {
    uint dim = lane + 32 * j;
    if (dim < WIDTH) q[(size_t(token) * H + head) * WIDTH + dim] = x[j];
  }
} else if (head < H + Hi) {
  uint index_head = head - H;
  float x[INDEX_COUNT];
#pragma unroll
  for (uint j = 0; j < INDEX_COUNT; j++) {
    uint dim = lane + 32 * j;
    x[j] = dim < INDEX_WIDTH ? row[H * WIDTH + index_head * INDEX_WIDTH + dim] : 0.0f;
  }
  rotate_lanes<INDEX_WIDTH>(x, cosines, sines, P, lane);
  if (OFFICIAL) hadamard_fp4_lanes<INDEX_WIDTH>(x, lane);
#pragma unroll
  for (uint j = 0; j < INDEX_COUNT; j++) {
    uint dim = lane + 32 * j;
    if (dim < INDEX_WIDTH) {
      index_q[(size_t(token) * Hi + index_head) * INDEX_WIDTH + dim] = x[j];
    }
  }
}
// Without index heads index_q is one number that nobody reads.
if (Hi == 0 && lane + head + token == 0) index_q[0] = 0.0f;
