#include "attention.metal"
#include "formats.metal"

// The same attention with 8x8 matrices of simdgroups, which CUDA has no word for.
//
// A threadgroup has a query, 8 ROW_BLOCKS of its heads and one split of its keys, eight keys at a
// time. Its simdgroups share the dims: each decodes its own dims of eight rows into registers, once,
// multiplies them with its dims of all heads' queries, and, when the scores of all dims are summed,
// weighs them as values. So rows pass through no threadgroup memory, only scores do.
//
// A matrix lane has two neighbours of one row of eight. As keys and as values a lane has the dims
// first_dim to first_dim + 2 BLOCKS - 1 of one key, two for every block: which dims make a block does
// not matter to a product, so that they may be neighbours in memory.

// Two codes of e4m3 as numbers. A code's bits are those of a half 2^-8 times as large, subnormal codes
// too, whose halves GPUs do not take for zero. 0x7F, not a number, is in no packed row.
float2 from_e4m3_pair(uint code, uint next) {
  uint codes = code | next << 16;
  uint halves = (codes & 0x00800080u) << 8 | (codes & 0x007F007Fu) << 7;
  half2 pair = as_type<half2>(halves);
  return float2(pair.x, pair.y) * 256.0f;
}

// 2 BLOCKS neighbouring dims of a stored row.
template <int BLOCKS> struct LatentRun { float2 pairs[BLOCKS]; };

// What is loaded of a run a tile before the rest: its first number and a packed run's scale. Then the
// lines that hold the rest are in a cache, for three registers; a whole run would take a lane's last.
template <int WIDTH, int ROPE>
uint2 run_start(const device float* row, int dim) {
  return *(const device uint2*)(row + dim);
}

template <int WIDTH, int ROPE>
uint2 run_start(const device bfloat16_t* row, int dim) {
  return uint2(*(const device uint*)(row + dim), 0u);
}

template <int WIDTH, int ROPE>
uint2 run_start(const device uint8_t* row, int dim) {
  if (dim >= WIDTH - ROPE) return uint2(row[2 * dim - (WIDTH - ROPE)], 0u);
  return uint2(row[dim], row[WIDTH + ROPE + dim / FP8_KV_BLOCK]);
}

template <int BLOCKS, int WIDTH, int ROPE>
LatentRun<BLOCKS> latent_run(uint2 start, const device float* row, int dim) {
  LatentRun<BLOCKS> run;
  run.pairs[0] = as_type<float2>(start);
  #pragma unroll
  for (int b = 1; b < BLOCKS; b++) run.pairs[b] = *(const device float2*)(row + dim + 2 * b);
  return run;
}

template <int BLOCKS, int WIDTH, int ROPE>
LatentRun<BLOCKS> latent_run(uint2 start, const device bfloat16_t* row, int dim) {
  LatentRun<BLOCKS> run;
  #pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    uint word = b == 0 ? start.x : *(const device uint*)(row + dim + 2 * b);
    run.pairs[b] = float2(from_bf16_bits(word & 0xFFFFu), from_bf16_bits(word >> 16));
  }
  return run;
}

template <int BLOCKS, int WIDTH, int ROPE>
LatentRun<BLOCKS> latent_run(uint2 start, const device uint8_t* row, int dim) {
  LatentRun<BLOCKS> run;
  // 16 dims or a divisor of 16 have one scale; other runs may cross to the next.
  bool one_scale = 16 % (2 * BLOCKS) == 0 && dim + 2 * BLOCKS <= WIDTH - ROPE;
  if (one_scale) {
    float scale = from_e8m0(start.y);
    #pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      uint code = b == 0 ? start.x : row[dim + 2 * b];
      run.pairs[b] = from_e4m3_pair(code, row[dim + 2 * b + 1]) * scale;
    }
  } else {
    #pragma unroll
    for (int b = 0; b < BLOCKS; b++)
      run.pairs[b] = float2(
          load_latent(row, dim + 2 * b, WIDTH, ROPE), load_latent(row, dim + 2 * b + 1, WIDTH, ROPE));
  }
  return run;
}

// Where a query's key lies, in the window's ring before `seen`, among the entries from there on; -1
// for none.
template <int ENTRIES, typename Selected>
int index_of_key(int key, int end, int seen, int oldest, int n, Selected selected) {
  if (key >= end) return -1;
  if (key < seen) return (oldest + key) % n;
  return ENTRIES == 2 ? selected[key - seen] : key - seen;
}

// body
// As sparse_attention.metal, with ROW_BLOCKS in place of heads per simdgroup. Loops over matrices are
// unrolled by force: an index that is no constant would put registers into memory.
constexpr int TILE = KEY_TILE, HEADS = 8 * ROW_BLOCKS, BLOCKS = WIDTH / (8 * SIMDGROUPS);
// Twice, so that a tile's scores may be written while the last one's are read.
threadgroup float scores[2 * SIMDGROUPS * ROW_BLOCKS * 64];

int lane = thread_index_in_simdgroup, simdgroup = simdgroup_index_in_threadgroup;
// Row and first column of the lane's two elements of every matrix.
int matrix_row = (lane / 16) * 4 + (lane / 2) % 4, matrix_column = (lane / 8) % 2 * 4 + lane % 2 * 2;
int first_dim = (simdgroup * 4 + matrix_column / 2) * 2 * BLOCKS;

int S = q_shape[1], H = q_shape[2], n = window_shape[1];
int groups = (H + HEADS - 1) / HEADS;
int split = threadgroup_position_in_grid.y, row = threadgroup_position_in_grid.x / groups;
int batch = row / S, position = first_position + row % S;
int first_head = int(threadgroup_position_in_grid.x) % groups * HEADS;

// The window holds the last n positions of the call.
int oldest = max(position - sliding_window + 1, max(0, first_position + S - n));
int seen = position + 1 - oldest, chosen = 0;
if (ENTRIES == 1) chosen = min(int(entries_shape[1]), (position + 1) / ratio);
if (ENTRIES == 2) chosen = selected_shape[2];
int visible = ENTRIES == 2 ? min(chosen, (position + 1) / ratio) : chosen;
KeyRange range = range_of_split(split, splits, seen + visible, seen + chosen);
int begin = range.begin, end = range.end;

// queries: dims of a block by heads. sums: heads by dims of a block.
simdgroup_matrix<float, 8, 8> queries[ROW_BLOCKS * BLOCKS], sums[ROW_BLOCKS * BLOCKS];
float exponents[ROW_BLOCKS], weight_sums[ROW_BLOCKS];
#pragma unroll
for (int r = 0; r < ROW_BLOCKS; r++) {
  exponents[r] = NO_EXPONENT;
  weight_sums[r] = 0.0f;
  #pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    int dim = (simdgroup * 4 + matrix_row / 2) * 2 * BLOCKS + 2 * b + matrix_row % 2;
    int head = first_head + 8 * r + matrix_column;
    auto own = q + (size_t(row) * H + head) * WIDTH + dim;
    queries[r * BLOCKS + b].thread_elements()[0] = head < H ? own[0] * scale : 0.0f;
    queries[r * BLOCKS + b].thread_elements()[1] = head + 1 < H ? own[WIDTH] * scale : 0.0f;
    sums[r * BLOCKS + b] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
}

// Two tiles ahead the lane's index is loaded, one tile ahead the start of its row.
int T = entries_shape[1], row_size = window_shape[2], turned = oldest + n - origin;
auto own_window = window + size_t(batch) * n * row_size;
auto own_entries = entries + size_t(batch) * T * row_size;
auto own_selected = selected + size_t(row) * chosen;
int key = begin + matrix_row;
int index = index_of_key<ENTRIES>(key, end, seen, turned, n, own_selected);
int after = index_of_key<ENTRIES>(key + TILE, end, seen, turned, n, own_selected);
auto stored = (key < seen ? own_window : own_entries) + size_t(max(index, 0)) * row_size;
uint2 run_begin = uint2(0u);
if (index >= 0) run_begin = run_start<WIDTH, ROPE>(stored, first_dim);

for (int start = begin; start < end; start += TILE) {
  bool present = index >= 0;
  LatentRun<BLOCKS> run;
  #pragma unroll
  for (int b = 0; b < BLOCKS; b++) run.pairs[b] = float2(0.0f);
  if (present) run = latent_run<BLOCKS, WIDTH, ROPE>(run_begin, stored, first_dim);

  key += TILE;
  index = after;
  stored = (key < seen ? own_window : own_entries) + size_t(max(index, 0)) * row_size;
  if (index >= 0) run_begin = run_start<WIDTH, ROPE>(stored, first_dim);
  after = index_of_key<ENTRIES>(key + TILE, end, seen, turned, n, own_selected);

  simdgroup_matrix<float, 8, 8> keys[BLOCKS];
  #pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    keys[b].thread_elements()[0] = run.pairs[b].x;
    keys[b].thread_elements()[1] = run.pairs[b].y;
  }

  // k . q over this simdgroup's dims, keys by heads; without a key -inf.
  int buffer = (start - begin) / TILE % 2 * SIMDGROUPS;
  #pragma unroll
  for (int r = 0; r < ROW_BLOCKS; r++) {
    simdgroup_matrix<float, 8, 8> products = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    #pragma unroll
    for (int b = 0; b < BLOCKS; b++)
      simdgroup_multiply_accumulate(products, keys[b], queries[r * BLOCKS + b], products);
    int place = ((buffer + simdgroup) * ROW_BLOCKS + r) * 64 + matrix_column * 8 + matrix_row;
    scores[place] = present ? products.thread_elements()[0] : -INFINITY;
    scores[place + 8] = present ? products.thread_elements()[1] : -INFINITY;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  #pragma unroll
  for (int r = 0; r < ROW_BLOCKS; r++) {
    // The lane's head is matrix_row, its keys matrix_column and the next.
    float score = 0.0f, next_score = 0.0f;
    for (int s = 0; s < SIMDGROUPS; s++) {
      int place = ((buffer + s) * ROW_BLOCKS + r) * 64 + matrix_row * 8 + matrix_column;
      score += scores[place];
      next_score += scores[place + 1];
    }
    float highest = precise::max(score, next_score);  // of the head's four lanes
    highest = precise::max(highest, simd_shuffle_xor(highest, 1));
    highest = precise::max(highest, simd_shuffle_xor(highest, 8));
    float exponent = precise::max(exponents[r], exponent_above(highest));
    float shrink = power_of_two(exponents[r] - exponent);
    exponents[r] = exponent;
    float weight = exp_over_power_of_two(score, exponent);
    float next_weight = exp_over_power_of_two(next_score, exponent);
    weight_sums[r] = weight_sums[r] * shrink + (weight + next_weight);
    simdgroup_matrix<float, 8, 8> weights;
    weights.thread_elements()[0] = OFFICIAL ? round_bf16(weight) : weight;
    weights.thread_elements()[1] = OFFICIAL ? round_bf16(next_weight) : next_weight;
    if (simd_any(shrink != 1.0f)) {  // times 1 would change nothing
      #pragma unroll
      for (int b = 0; b < BLOCKS; b++) {
        sums[r * BLOCKS + b].thread_elements()[0] *= shrink;
        sums[r * BLOCKS + b].thread_elements()[1] *= shrink;
      }
    }
    #pragma unroll
    for (int b = 0; b < BLOCKS; b++)
      simdgroup_multiply_accumulate(
          sums[r * BLOCKS + b], weights, keys[b], sums[r * BLOCKS + b]);
  }
}

#pragma unroll
for (int r = 0; r < ROW_BLOCKS; r++) {
  int head = first_head + 8 * r + matrix_row;
  float total = weight_sums[r];
  total += simd_shuffle_xor(total, 1);
  total += simd_shuffle_xor(total, 8);
  if (head < H) {
    size_t place = (size_t(row) * splits + split) * H + head;
    if (simdgroup == 0 && matrix_column == 0) {
      stats[2 * place] = exponents[r];
      stats[2 * place + 1] = total;
    }
    if (!SPLIT) total += exp_over_power_of_two(sinks[head], exponents[r]);
    #pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      int dim = first_dim + 2 * b;
      float2 pair = float2(
          sums[r * BLOCKS + b].thread_elements()[0], sums[r * BLOCKS + b].thread_elements()[1]);
      if (!SPLIT)
        pair = finished_pair<WIDTH, ROPE, OFFICIAL>(
            pair / total, dim, cos + (row % S) * (ROPE / 2), sin + (row % S) * (ROPE / 2));
      *(device float2*)(output + place * WIDTH + dim) = pair;
    }
  }
}
