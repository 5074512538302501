#include "common.metal"
#include "formats.metal"

// Both latents of a token: the queries' residual is normed, the window's row normed, rotated, rounded
// and stored.

// body
// projected [B, S, L + K] -> q_residual [B, S, L], kv [B, S, ...]. A threadgroup has one latent of one
// token: y = 0 the residual, 1 the window's row, of which each thread has a pair of dims.
threadgroup float sums[32];
uint L = q_norm_weight_shape[0], K = kv_norm_weight_shape[0], P = cos_shape[1];
uint token = threadgroup_position_in_grid.x;
uint thread_index = thread_position_in_threadgroup.x;
uint threads = threads_per_threadgroup.x;
auto row = projected + size_t(token) * (L + K);
if (threadgroup_position_in_grid.y == 0) {
  float squares = 0.0f;
  for (uint i = thread_index; i < L; i += threads) squares += row[i] * row[i];
  float factor = precise::rsqrt(block_sum(squares, sums, thread_index, threads) / L + eps);
  for (uint i = thread_index; i < L; i += threads) {
    float x = row[i] * factor * float(q_norm_weight[i]);
    q_residual[size_t(token) * L + i] = OFFICIAL ? round_bf16(x) : x;
  }
} else {
  uint plain = K - 2 * P;
  uint dim = 2 * thread_index;
  bool exists = dim < K;
  float even = exists ? row[L + dim] : 0.0f;
  float odd = exists ? row[L + dim + 1] : 0.0f;
  float squares = block_sum(even * even + odd * odd, sums, thread_index, threads);
  float factor = precise::rsqrt(squares / K + eps);
  if (exists) {
    even = even * factor * float(kv_norm_weight[dim]);
    odd = odd * factor * float(kv_norm_weight[dim + 1]);
  }
  if (exists && dim >= plain) {
    uint at = token % cos_shape[0] * P + (dim - plain) / 2;
    float c = cos[at], s = sin[at], a = even, b = odd;
    even = a * c - b * s;
    odd = a * s + b * c;
  }
  auto stored = kv + size_t(token) * latent_elements<Stored>(K, 2 * P);
  finish_latent_pair<OFFICIAL, Stored>(stored, exists, dim, K, 2 * P, even, odd);
}
