#include "streams.metal"

// What Engram looked up is added to every stream, as far as its key fits the stream.

// body
// streams [B, S, N, D], kv [B, S, N + 1, D] with a key for each stream and then the value, q_weight
// and k_weight [N, D] -> added [B, S, N, D]; a threadgroup has one stream of a token.
constexpr int CHANNELS = (D + THREADS - 1) / THREADS;  // of a thread
threadgroup float product_scratch[32], stream_scratch[32], key_scratch[32];
uint thread_index = thread_position_in_threadgroup.x;
size_t place = threadgroup_position_in_grid.x, token = place / N, n = place % N;
auto row = streams + place * D;
auto key = kv + (token * (N + 1) + n) * D;
auto value = kv + (token * (N + 1) + N) * D;

float x[CHANNELS];
float product = 0.0f, stream_squares = 0.0f, key_squares = 0.0f;
#pragma unroll
for (int i = 0; i < CHANNELS; i++) {
  uint d = i * THREADS + thread_index, last = min(d, uint(D - 1));
  float k = d < D ? key[last] : 0.0f;
  x[i] = d < D ? row[last] : 0.0f;
  float weight = float(q_weight[n * D + last]) * float(k_weight[n * D + last]);
  product = fma(x[i] * weight, k, product);
  stream_squares = fma(x[i], x[i], stream_squares);
  key_squares = fma(k, k, key_squares);
}
product = block_sum(product, product_scratch, thread_index, THREADS);
stream_squares = block_sum(stream_squares, stream_scratch, thread_index, THREADS);
key_squares = block_sum(key_squares, key_scratch, thread_index, THREADS);

float score = product * precise::rsqrt(stream_squares / float(D) + EPS) *
              precise::rsqrt(key_squares / float(D) + EPS) / precise::sqrt(float(D));
float size = fabs(score);
float root = precise::sqrt(size < LEAST_SCORE ? LEAST_SCORE : size);  // NaN passes
float alpha = stream_gate(score < 0.0f ? -root : root);
#pragma unroll
for (int i = 0; i < CHANNELS; i++) {
  uint d = i * THREADS + thread_index;
  if (d < D) {
    float sum = fma(alpha, value[d], x[i]);
    added[place * D + d] = OFFICIAL ? round_bf16(sum) : sum;
  }
}
