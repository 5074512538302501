#include "formats.metal"

// Index scores by 8x8 matrices: sum over heads of weight * relu(q . key), for queries and keys.
//
// One threadgroup scores a tile of keys for one query. A simdgroup unpacks its 8 * TILES keys once
// into registers; the heads pass by in threadgroup memory, STAGED at a time, shared by all
// simdgroups. Products and their sum over heads never leave the registers, and the order of every
// sum depends on neither tile nor query: equal keys have equal scores.
// A tile that no query may see is filled with -inf and costs nothing.

constant constexpr int MATRIX = 8;

// body
// index_q [B, S, H, K] float32, head_weights [B, S, H] float32, keys [B, T, row] as stored;
// scores [B, queries, T] float32 for the queries from first_query on.
constexpr int PADDED = (DIMS + MATRIX - 1) / MATRIX * MATRIX;
constexpr int STRIDE = PADDED + 4;  // spreads eight heads over all banks
threadgroup float staged[STAGED * STRIDE];
threadgroup float weights[STAGED];
uint lane = thread_index_in_simdgroup;
uint thread_index = thread_position_in_threadgroup.x;
uint threads = threads_per_threadgroup.x;
// Where a lane's two neighbouring elements lie in an 8x8 matrix.
uint lane_row = (lane / 16) * 4 + (lane / 2) % 4;
uint lane_column = (lane / 8) % 2 * 4 + lane % 2 * 2;

uint heads = index_q_shape[2];
uint T = keys_shape[1];
uint queries = threadgroups_per_grid.x;
uint query = threadgroup_position_in_grid.x;
ulong batch = threadgroup_position_in_grid.z;
ulong q_row = batch * index_q_shape[1] + uint(first_query) + query;
auto q = index_q + q_row * heads * DIMS;
auto q_weights = head_weights + q_row * heads;
uint visible = min(T, uint(first_position + first_query + int(query) + 1) / uint(ratio));

uint group_first = threadgroup_position_in_grid.y * (threads / 32) * MATRIX * TILES;
uint first_key = group_first + simdgroup_index_in_threadgroup * MATRIX * TILES;
uint scored_heads = group_first < visible ? heads : 0;

simdgroup_float8x8 tile[TILES][PADDED / MATRIX];
float sums[TILES];
#pragma unroll
for (int t = 0; t < TILES; ++t) {
  uint key = min(first_key + t * MATRIX + lane_row, T - 1);
  auto stored = keys + (batch * T + key) * keys_shape[2];
#pragma unroll
  for (int j = 0; j < PADDED / MATRIX; ++j) {
    uint dim = j * MATRIX + lane_column, dims = scored_heads > 0 ? DIMS : 0;
    tile[t][j].thread_elements()[0] = dim < dims ? load_key(stored, dim, DIMS) : 0.0f;
    tile[t][j].thread_elements()[1] = dim + 1 < dims ? load_key(stored, dim + 1, DIMS) : 0.0f;
  }
  sums[t] = 0;
}

for (uint first = 0; first < scored_heads; first += STAGED) {
  uint count = min(uint(STAGED), heads - first);
  uint rounded = (count + MATRIX - 1) / MATRIX * MATRIX;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < rounded * PADDED; i += threads) {
    uint head = i / PADDED, dim = i % PADDED;
    bool inside = head < count && dim < DIMS;
    staged[head * STRIDE + dim] = inside ? q[(first + head) * DIMS + dim] : 0.0f;
  }
  for (uint head = thread_index; head < count; head += threads) {
    weights[head] = q_weights[first + head] * scale;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint head = 0; head < count; head += MATRIX) {
    simdgroup_float8x8 products[TILES];
#pragma unroll
    for (int t = 0; t < TILES; ++t) products[t] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma unroll
    for (int j = 0; j < PADDED / MATRIX; ++j) {
      simdgroup_float8x8 eight;
      simdgroup_load(eight, staged + head * STRIDE + j * MATRIX, STRIDE, ulong2(0, 0), true);
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        simdgroup_multiply_accumulate(products[t], tile[t][j], eight, products[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
      uint own = head + lane_column;
      float product = products[t].thread_elements()[0];
      float next = products[t].thread_elements()[1];
      // Not max(): NaN has to stay NaN.
      product = product < 0.0f ? 0.0f : product;
      next = next < 0.0f ? 0.0f : next;
      if (own < count) sums[t] = fma(weights[own], product, sums[t]);
      if (own + 1 < count) sums[t] = fma(weights[own + 1], next, sums[t]);
    }
  }
}

#pragma unroll
for (int t = 0; t < TILES; ++t) {
  // The four lanes of a key hold different heads.
  sums[t] += simd_shuffle_xor(sums[t], 1);
  sums[t] += simd_shuffle_xor(sums[t], 8);
  uint key = first_key + t * MATRIX + lane_row;
  if (lane_column == 0 && key < T) {
    scores[(batch * queries + query) * T + key] = key < visible ? sums[t] : -INFINITY;
  }
}
