#include "common.metal"

// Weights of the experts that a table names for a token. One simdgroup serves one token, lane j the
// j-th of its experts.

// body
// logits [M, E], table [V, K], tokens [M] -> experts [M, K] in the table's order, weights [M, K]
uint token = thread_position_in_grid.y, lane = thread_index_in_simdgroup;
if (token >= uint(logits_shape[0])) return;  // all lanes of a simdgroup together

uint expert = lane < K ? uint(table[size_t(tokens[token]) * K + lane]) : 0;
float score = lane < K ? expert_score(logits[size_t(token) * logits_shape[1] + expert]) : 0.0f;
float total = simd_sum(score);
if (lane < K) {
  experts[token * K + lane] = expert;
  weights[token * K + lane] = score / total * scaling;
}
