#include "attention.metal"
#include "formats.metal"

// Attention of one query's heads over one stretch of the keys that it sees.
//
// A threadgroup has a query, HEADS heads in each simdgroup, and one split of the query's keys: the
// window's rows, oldest first, then the entries. TILE stored rows at a time are decoded into
// threadgroup memory, where all simdgroups read them as keys and as values. A lane holds the same
// 4 VECTORS dims of its simdgroup's queries, sums and rows. The softmax is online.

// Four neighbouring dims of a stored row, zero beyond the width.
template <int WIDTH, int ROPE>
float4 latent_vector(const device float* row, int dim) {
  return dim < WIDTH ? *(const device float4*)(row + dim) : float4(0.0f);
}

template <int WIDTH, int ROPE>
float4 latent_vector(const device bfloat16_t* row, int dim) {
  if (dim >= WIDTH) return float4(0.0f);
  uint2 words = *(const device uint2*)(row + dim);  // a bfloat16 is the upper half of a float32
  return float4(
      as_type<float>(words.x << 16), as_type<float>(words.x & 0xffff0000u),
      as_type<float>(words.y << 16), as_type<float>(words.y & 0xffff0000u));
}

template <int WIDTH, int ROPE>
float4 latent_vector(const device uint8_t* row, int dim) {
  float4 value = float4(0.0f);
  if (dim + 4 <= WIDTH - ROPE) {  // 4 divides 64: one scale
    float scale = from_e8m0(row[WIDTH + ROPE + dim / FP8_KV_BLOCK]);
    value = float4(
        from_e4m3(row[dim]), from_e4m3(row[dim + 1]), from_e4m3(row[dim + 2]),
        from_e4m3(row[dim + 3])) * scale;
  } else if (dim < WIDTH) {
    value.x = load_latent(row, dim, WIDTH, ROPE);
    value.y = load_latent(row, dim + 1, WIDTH, ROPE);
    value.z = load_latent(row, dim + 2, WIDTH, ROPE);
    value.w = load_latent(row, dim + 3, WIDTH, ROPE);
  }
  return value;
}

// body
// q [B, S, H, WIDTH], window [B, n, *], sinks [H], cos and sin [S, ROPE / 2], entries [B, T, *],
// selected [B, S, k]. ENTRIES: 0 none, 1 every visible one, 2 the selected ones.
// -> output [B S, splits, H, WIDTH], unnormalised where SPLIT, else (splits = 1) finished, and stats
// [B S, splits, H, 2]: exponent and sum of weights.
constexpr int LANES = 32, HEADS = 2, TILE = KEY_TILE;
constexpr int VECTORS = (WIDTH + 4 * LANES - 1) / (4 * LANES);
threadgroup float4 tile[TILE * VECTORS * LANES];
threadgroup bool present[TILE];

int lane = thread_index_in_simdgroup, simdgroup = simdgroup_index_in_threadgroup;
int S = q_shape[1], H = q_shape[2], n = window_shape[1];
int groups = (H + SIMDGROUPS * HEADS - 1) / (SIMDGROUPS * HEADS);
int split = threadgroup_position_in_grid.y, row = threadgroup_position_in_grid.x / groups;
int batch = row / S, position = first_position + row % S;
int first_head =
    (int(threadgroup_position_in_grid.x) % groups * SIMDGROUPS + simdgroup) * HEADS;

// The window holds the last n positions of the call.
int oldest = max(position - sliding_window + 1, max(0, first_position + S - n));
int seen = position + 1 - oldest, chosen = 0;
if (ENTRIES == 1) chosen = min(int(entries_shape[1]), (position + 1) / ratio);
if (ENTRIES == 2) chosen = selected_shape[2];
int visible = ENTRIES == 2 ? min(chosen, (position + 1) / ratio) : chosen;
KeyRange range = range_of_split(split, splits, seen + visible, seen + chosen);
int begin = range.begin, end = range.end;

float4 query[HEADS * VECTORS], sums[HEADS * VECTORS];
float exponents[HEADS];
float weight_sum = 0.0f;  // of head lane / TILE, over the keys of lane % TILE
#pragma unroll
for (int h = 0; h < HEADS; h++) {
  exponents[h] = NO_EXPONENT;
  #pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    int head = first_head + h, dim = 4 * (v * LANES + lane);
    float4 value = float4(0.0f);
    if (head < H && dim < WIDTH)
      value = *(const device float4*)(q + (size_t(row) * H + head) * WIDTH + dim) * scale;
    query[h * VECTORS + v] = value;
    sums[h * VECTORS + v] = float4(0.0f);
  }
}

for (int start = begin; start < end; start += TILE) {
  threadgroup_barrier(mem_flags::mem_threadgroup);  // the tile before was read
  for (int t = simdgroup; t < TILE; t += SIMDGROUPS) {
    int key = start + t, index = -1;
    if (key < end && key < seen) index = (oldest + key + n - origin) % n;
    if (key < end && key >= seen) {
      index = key - seen;
      if (ENTRIES == 2) index = selected[size_t(row) * chosen + index];
    }
    #pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      int dim = 4 * (v * LANES + lane);
      float4 value = float4(0.0f);
      if (index >= 0 && key < seen)
        value = latent_vector<WIDTH, ROPE>(
            window + (size_t(batch) * n + index) * window_shape[2], dim);
      if (index >= 0 && key >= seen)
        value = latent_vector<WIDTH, ROPE>(
            entries + (size_t(batch) * entries_shape[1] + index) * entries_shape[2], dim);
      tile[(t * VECTORS + v) * LANES + lane] = value;
    }
    if (lane == 0) present[t] = index >= 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // score = q . k, complete in every lane; lane h TILE + t keeps that of head h and key t.
  float score = -INFINITY, highest[HEADS];
  #pragma unroll
  for (int h = 0; h < HEADS; h++) highest[h] = -INFINITY;
  for (int t = 0; t < TILE; t++) {
    float products[HEADS];
    #pragma unroll
    for (int h = 0; h < HEADS; h++) products[h] = 0.0f;
    #pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      float4 key = tile[(t * VECTORS + v) * LANES + lane];
      #pragma unroll
      for (int h = 0; h < HEADS; h++) products[h] += dot(query[h * VECTORS + v], key);
    }
    bool there = present[t];
    #pragma unroll
    for (int h = 0; h < HEADS; h++) {
      float product = simd_sum(products[h]);
      if (!there) product = -INFINITY;
      if (lane == h * TILE + t) score = product;
      highest[h] = precise::max(highest[h], product);
    }
  }

  float exponent = 0.0f;
  #pragma unroll
  for (int h = 0; h < HEADS; h++) {
    float higher = precise::max(exponents[h], exponent_above(highest[h]));
    float shrink = power_of_two(exponents[h] - higher);
    if (shrink != 1.0f) {
      #pragma unroll
      for (int v = 0; v < VECTORS; v++) sums[h * VECTORS + v] *= shrink;
    }
    if (lane / TILE == h) {
      weight_sum *= shrink;
      exponent = higher;
    }
    exponents[h] = higher;
  }
  float weight = exp_over_power_of_two(score, exponent);  // 0 where there is no key
  weight_sum += weight;
  if (OFFICIAL) weight = round_bf16(weight);
  for (int t = 0; t < TILE; t++) {
    float weights[HEADS];
    #pragma unroll
    for (int h = 0; h < HEADS; h++) weights[h] = simd_shuffle(weight, ushort(h * TILE + t));
    #pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      float4 value = tile[(t * VECTORS + v) * LANES + lane];
      #pragma unroll
      for (int h = 0; h < HEADS; h++) sums[h * VECTORS + v] += weights[h] * value;
    }
  }
}

#pragma unroll
for (int h = 0; h < HEADS; h++) {
  int head = first_head + h;
  float total = simd_sum(lane / TILE == h ? weight_sum : 0.0f);
  if (head >= H) continue;  // the whole simdgroup
  size_t place = (size_t(row) * splits + split) * H + head;
  if (lane == 0) {
    stats[2 * place] = exponents[h];
    stats[2 * place + 1] = total;
  }
  if (!SPLIT) total += exp_over_power_of_two(sinks[head], exponents[h]);
  #pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    int dim = 4 * (v * LANES + lane);
    if (dim >= WIDTH) continue;
    float4 value = sums[h * VECTORS + v];
    if (!SPLIT) {
      value /= total;
      auto c = cos + (row % S) * (ROPE / 2);
      auto s = sin + (row % S) * (ROPE / 2);
      float2 low = finished_pair<WIDTH, ROPE, OFFICIAL>(float2(value.x, value.y), dim, c, s);
      float2 high = finished_pair<WIDTH, ROPE, OFFICIAL>(float2(value.z, value.w), dim + 2, c, s);
      value = float4(low.x, low.y, high.x, high.y);
    }
    *(device float4*)(output + place * WIDTH + dim) = value;
  }
}
