#include "formats.metal"

// Index scores without matrix instructions: sum over heads of weight * relu(q . key).
//
// One threadgroup scores 64 keys for one query, 32 heads and 32 dims at a time: both sides are
// unpacked into threadgroup memory, and each of its 128 threads multiplies four keys by four heads.
// The order of every sum depends on neither tile nor query: equal keys have equal scores. A tile
// that no query may see is filled with -inf and costs nothing.

constant constexpr uint KEYS = 64;
constant constexpr uint HEADS = 32;
constant constexpr uint SLICE = 32;
constant constexpr uint KEY_LANES = 16;
constant constexpr uint HEAD_LANES = 8;

// body
// Arguments as those of index_scores.metal.
threadgroup float key_slice[SLICE * (KEYS + 1)];
threadgroup float head_slice[SLICE * (HEADS + 1)];
uint thread_index = thread_position_in_threadgroup.x;
uint threads = KEY_LANES * HEAD_LANES;
uint key_lane = thread_index % KEY_LANES, head_lane = thread_index / KEY_LANES;

uint heads = index_q_shape[2];
uint T = keys_shape[1];
uint queries = threadgroups_per_grid.x;
uint query = threadgroup_position_in_grid.x;
ulong batch = threadgroup_position_in_grid.z;
ulong q_row = batch * index_q_shape[1] + uint(first_query) + query;
auto q = index_q + q_row * heads * DIMS;
auto q_weights = head_weights + q_row * heads;
auto own_keys = keys + batch * T * keys_shape[2];
uint visible = min(T, uint(first_position + first_query + int(query) + 1) / uint(ratio));
uint first_key = threadgroup_position_in_grid.y * KEYS;
uint scored_heads = first_key < visible ? heads : 0;

float sums[4] = {0, 0, 0, 0};
for (uint first = 0; first < scored_heads; first += HEADS) {
  float products[4][4] = {};
  for (uint slice = 0; slice < DIMS; slice += SLICE) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index; i < KEYS * SLICE; i += threads) {
      uint key = min(first_key + i / SLICE, T - 1), dim = slice + i % SLICE;
      auto stored = own_keys + ulong(key) * keys_shape[2];
      key_slice[i % SLICE * (KEYS + 1) + i / SLICE] = dim < DIMS ? load_key(stored, dim, DIMS) : 0;
    }
    for (uint i = thread_index; i < HEADS * SLICE; i += threads) {
      uint head = first + i / SLICE, dim = slice + i % SLICE;
      bool inside = head < heads && dim < DIMS;
      head_slice[i % SLICE * (HEADS + 1) + i / SLICE] = inside ? q[head * DIMS + dim] : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint dim = 0; dim < SLICE; ++dim) {
      float key[4], head[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        key[i] = key_slice[dim * (KEYS + 1) + key_lane + i * KEY_LANES];
        head[i] = head_slice[dim * (HEADS + 1) + head_lane + i * HEAD_LANES];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) products[i][j] = fma(key[i], head[j], products[i][j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint head = first + head_lane + j * HEAD_LANES;
    if (head < heads) {
      float weight = q_weights[head] * scale;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Not max(): NaN has to stay NaN.
        float product = products[i][j] < 0 ? 0.0f : products[i][j];
        sums[i] = fma(weight, product, sums[i]);
      }
    }
  }
}

threadgroup_barrier(mem_flags::mem_threadgroup);
for (int i = 0; i < 4; ++i) key_slice[head_lane * KEYS + key_lane + i * KEY_LANES] = sums[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
uint key = first_key + thread_index;
if (thread_index < KEYS && key < T) {
  float score = 0;
  for (uint i = 0; i < HEAD_LANES; ++i) score += key_slice[i * KEYS + thread_index];
  scores[(batch * queries + query) * T + key] = key < visible ? score : -INFINITY;
}
