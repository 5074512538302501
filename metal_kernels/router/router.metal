#include "common.metal"

// Top-k experts of a token by biased sqrt(softplus) scores. One simdgroup serves one token: its
// lanes hold the scores of experts lane, lane + 32, ... in registers, so there is no barrier.

// body
// logits [M, E], bias [E] -> experts [M, K] ascending, weights [M, K]
uint token = thread_position_in_grid.y, lane = thread_index_in_simdgroup;
if (token >= uint(logits_shape[0])) return;  // all lanes of a simdgroup together
auto row = logits + size_t(token) * E;

constexpr int SLOTS = (E + 31) / 32;
float biased[SLOTS];
#pragma unroll
for (int i = 0; i < SLOTS; i++) {
  uint expert = lane + 32 * i;
  biased[i] = expert < E ? expert_score(row[expert]) + bias[expert] : -INFINITY;
}

// K times: the largest that is left, of equal ones the lowest expert. NaN is larger than nothing.
// Lane j keeps the j-th choice; E stands for "none left", and a lane that never chooses keeps it.
uint mine = uint(E);
for (uint choice = 0; choice < K; choice++) {
  float best = -INFINITY;
  uint best_expert = uint(E);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    if (biased[i] > best) {
      best = biased[i];
      best_expert = lane + 32 * i;
    }
  }
  float top = simd_max(best);
  uint chosen = simd_min(best == top ? best_expert : uint(E));
#pragma unroll
  for (int i = 0; i < SLOTS; i++)
    if (lane + 32 * i == chosen) biased[i] = -INFINITY;
  if (lane == choice) mine = chosen;
}

// Experts ascend: a choice stands behind all smaller ones; places that found none come last.
uint place = 0;
for (uint other = 0; other < K; other++) {
  uint theirs = simd_shuffle(mine, other);
  if (theirs < mine || (theirs == mine && other < lane)) place++;
}
uint expert = mine < E ? mine : 0;
float score = lane < K ? expert_score(row[expert]) : 0.0f;
float total = simd_sum(score);
if (lane < K) {
  experts[token * K + place] = expert;
  weights[token * K + place] = score / total * scaling;
}
