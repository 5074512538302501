#include "bfloat16.metal"
#include "common.metal"

// The mHC kernels' shared functions. A token has N streams of D channels, one after the other; fn
// has M rows of N D weights: (2 + N) N of them before a sublayer, N before the head.
//
// Sums are written with fma, so that every text and every compiler rounds them alike.

// The N streams of one token at one channel.
template <int N> struct Streams { float at[N]; };

template <int N, typename Row>
Streams<N> load_streams(Row row, uint D, uint d) {
  Streams<N> x;
#pragma unroll
  for (int n = 0; n < N; n++) x.at[n] = row[n * D + d];
  return x;
}

template <int N, typename Row>
void store_streams(Row row, Streams<N> x, uint D, uint d) {
#pragma unroll
  for (int n = 0; n < N; n++) row[n * D + d] = x.at[n];
}

// X'_k = post_k y + sum_j comb_jk X_j
template <bool BF16, int N, typename Post, typename Comb>
Streams<N> expand_streams(float y, Streams<N> x, Post post, Comb comb) {
  Streams<N> mixed;
#pragma unroll
  for (int k = 0; k < N; k++) {
    float sum = post[k] * y;
#pragma unroll
    for (int j = 0; j < N; j++) sum = fma(comb[j * N + k], x.at[j], sum);
    mixed.at[k] = BF16 ? round_bf16(sum) : sum;
  }
  return mixed;
}

// What a threadgroup of the first launch works on: one slice of channels, a few tokens.
struct Slice {
  uint first_channel, index, count;
  uint first_token, tokens;  // tokens in all
};

template <int TOKENS, int WIDTH>
Slice slice_of(uint group, uint tokens, uint D) {
  // Neighbouring threadgroups share a slice, hence the weights that they read.
  uint tiles = (tokens + TOKENS - 1) / TOKENS;
  Slice slice;
  slice.index = group / tiles;
  slice.count = (D + WIDTH - 1) / WIDTH;
  slice.first_channel = slice.index * WIDTH;
  slice.first_token = group % tiles * TOKENS;
  slice.tokens = tokens;
  return slice;
}

// A lane's weights in a slice: of ROWS rows, every 32nd of the slice's channels, stream by stream.
template <int ROWS, int COLUMNS> struct MixWeights { float at[ROWS * COLUMNS]; };

template <int ROWS, int N, int D, int M, int WIDTH, typename Fn>
MixWeights<ROWS, N * WIDTH / 32> load_weights(Fn fn, Slice slice, uint simdgroup, uint lane) {
  MixWeights<ROWS, N * WIDTH / 32> weights;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    // Beyond the last row the last is read again, and its sum dropped; beyond the last channel a
    // weight meets zeros. So no load waits for a branch.
    size_t row = min(simdgroup * ROWS + r, uint(M - 1));
#pragma unroll
    for (int c = 0; c < N * WIDTH / 32; c++) {
      uint n = c / (WIDTH / 32), d = slice.first_channel + c % (WIDTH / 32) * 32 + lane;
      weights.at[r * (N * WIDTH / 32) + c] = fn[(row * N + n) * D + min(d, uint(D - 1))];
    }
  }
  return weights;
}

// One slice's share of the sum of squares, as row 0, and of `fn @ flatten(streams)`, as rows 1 to M,
// to partials [tokens, M + 1, slices]. tile [TOKENS, N, WIDTH] is 0 beyond the last channel.
template <int TOKENS, int SIMDGROUPS, int M, int ROWS, int COLUMNS, typename Tile,
          typename Partials>
void mix_slice(
    Tile tile, MixWeights<ROWS, COLUMNS> weights, Partials partials, Slice slice, uint simdgroup,
    uint lane) {
  uint row = simdgroup * ROWS;
  for (uint t = 0; t < TOKENS; t++) {
    float sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      float x = tile[(t * COLUMNS + c) * 32 + lane];
#pragma unroll
      for (int r = 0; r < ROWS; r++) sums[r] = fma(weights.at[r * COLUMNS + c], x, sums[r]);
    }
    uint token = slice.first_token + t;
    auto partial = partials + size_t(token) * (M + 1) * slice.count + slice.index;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float sum = simd_sum(sums[r]);
      if (lane == 0 && token < slice.tokens && row + r < M)
        partial[(1 + row + r) * slice.count] = sum;
    }
  }

  for (uint first = 0; first < TOKENS; first += SIMDGROUPS) {
    uint t = first + simdgroup, token = slice.first_token + t;
    float squares = 0.0f;
    for (int c = 0; c < COLUMNS; c++) {
      float x = t < TOKENS ? tile[(t * COLUMNS + c) * 32 + lane] : 0.0f;
      squares = fma(x, x, squares);
    }
    squares = simd_sum(squares);
    if (lane == 0 && t < TOKENS && token < slice.tokens)
      partials[size_t(token) * (M + 1) * slice.count + slice.index] = squares;
  }
}

// Numbers in a simdgroup: lane l holds those at l, l + 32, ...
template <int COUNT> struct Lanes { float at[(COUNT + 31) / 32]; };

// Any lane's number; all lanes ask together.
template <int COUNT>
float number_at(Lanes<COUNT> numbers, uint index) {
  float found = simd_shuffle(numbers.at[0], index % 32);
#pragma unroll
  for (uint slot = 1; slot < (COUNT + 31) / 32; slot++) {
    float other = simd_shuffle(numbers.at[slot], index % 32);
    found = index / 32 == slot ? other : found;
  }
  return found;
}

// Sums over the slices of `rows` rows of partials, to `sums`: a simdgroup has a row, a lane every 32nd
// slice of it. All threads come here, and the order of a sum depends on nobody else's rows.
template <int SLICES, int SIMDGROUPS, typename Sums, typename Partials>
void sum_slices(Sums sums, Partials partials, uint rows, uint simdgroup, uint lane) {
  for (uint row = simdgroup; row < rows; row += SIMDGROUPS) {
    float sum = 0.0f;
#pragma unroll
    for (uint first = 0; first < SLICES; first += 32) {
      if (first + lane < SLICES) sum += partials[row * SLICES + first + lane];
    }
    sum = simd_sum(sum);
    if (lane == 0) sums[row] = sum;
  }
}

// One row of `fn @ flatten(streams) / RMS(flatten(streams))`, of a token's sums.
template <int N, int D, typename Sums>
float mix_row(Sums sums, uint row, float eps) {
  return sums[1 + row] * precise::rsqrt(sums[0] / float(N * D) + eps);
}

float stream_gate(float x) { return 1.0f / (1.0f + precise::exp(-x)); }

// pre_j = sigmoid(mix_j scale + base_j) + eps: all of them in every lane.
template <int N, int D, typename Sums, typename Base>
Streams<N> stream_weights(Sums sums, float scale, Base base, float norm_eps, float eps, uint lane) {
  uint row = min(lane, uint(N - 1));
  float own = stream_gate(fma(mix_row<N, D>(sums, row, norm_eps), scale, base[row])) + eps;
  Streams<N> pre;
#pragma unroll
  for (int n = 0; n < N; n++) pre.at[n] = simd_shuffle(own, n);
  return pre;
}

// A thread's channels of a token, all streams of each: every THREADS-th channel.
template <int N, int CHANNELS> struct TokenStreams { Streams<N> at[CHANNELS]; };

template <int N, int D, int THREADS, int CHANNELS, typename Row>
TokenStreams<N, CHANNELS> load_token(Row row, uint thread_index) {
  TokenStreams<N, CHANNELS> x;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++)
    x.at[i] = load_streams<N>(row, D, min(i * THREADS + thread_index, uint(D - 1)));
  return x;
}

// u = sum_j pre_j X_j, then RMSNorm with weight. All threads of the threadgroup come here together.
template <int D, int THREADS, bool BF16, int N, int CHANNELS, typename Weight, typename Out,
          typename Scratch>
void collapse_streams(
    TokenStreams<N, CHANNELS> x, Streams<N> pre, Weight weight, Out out, float eps,
    Scratch scratch, uint thread_index) {
  float u[CHANNELS];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) {
    uint d = i * THREADS + thread_index;
    float sum = pre.at[0] * x.at[i].at[0];
#pragma unroll
    for (int n = 1; n < N; n++) sum = fma(pre.at[n], x.at[i].at[n], sum);
    u[i] = BF16 ? round_bf16(sum) : sum;
    squares = d < D ? fma(u[i], u[i], squares) : squares;
  }
  squares = block_sum(squares, scratch, thread_index, THREADS);
  float scale = precise::rsqrt(squares / float(D) + eps);
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) {
    uint d = i * THREADS + thread_index;
    if (d < D) out[d] = u[i] * scale * float(weight[d]);
  }
}

// A square matrix of N N numbers, its rows one after the other: row softmax + eps.
template <int N>
Lanes<N * N> softmax_rows(Lanes<N * N> m, uint lane, float eps) {
  Lanes<N * N> powers, result;
#pragma unroll
  for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
    uint first = (lane + 32 * slot) / N * N;
    float top = number_at(m, first);
    for (uint i = 1; i < N; i++) top = precise::max(top, number_at(m, first + i));
    powers.at[slot] = precise::exp(m.at[slot] - top);
  }
#pragma unroll
  for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
    uint first = (lane + 32 * slot) / N * N;
    float sum = number_at(powers, first);
    for (uint i = 1; i < N; i++) sum += number_at(powers, first + i);
    result.at[slot] = powers.at[slot] / sum + eps;
  }
  return result;
}

// Every entry over the sum of its row or column, + eps.
template <int N>
Lanes<N * N> divide_by_sums(Lanes<N * N> m, bool by_rows, uint lane, float eps) {
  Lanes<N * N> result;
#pragma unroll
  for (uint slot = 0; slot < (N * N + 31) / 32; slot++) {
    uint entry = lane + 32 * slot, step = by_rows ? 1 : N;
    uint first = by_rows ? entry / N * N : entry % N;
    float sum = number_at(m, first);
    for (uint i = 1; i < N; i++) sum += number_at(m, first + i * step);
    result.at[slot] = m.at[slot] / (sum + eps);
  }
  return result;
}

// Softmax is the first row step, and the last step is a column step.
template <int N>
Lanes<N * N> sinkhorn(Lanes<N * N> logits, int iters, uint lane, float eps) {
  Lanes<N * N> comb = softmax_rows<N>(logits, lane, eps);
  comb = divide_by_sums<N>(comb, false, lane, eps);
  for (int i = 1; i < iters; i++) {
    comb = divide_by_sums<N>(comb, true, lane, eps);
    comb = divide_by_sums<N>(comb, false, lane, eps);
  }
  return comb;
}
