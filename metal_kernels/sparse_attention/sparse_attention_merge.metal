#include "attention.metal"

// The splits of a query's keys become one: sinks, normalisation, inverse rotation, rounding.

// body
// partials [B S, splits, H, WIDTH], stats [B S, splits, H, 2], sinks [H], cos and sin [S, ROPE / 2]
// -> output [B S, H, WIDTH]; a threadgroup has a head of a query, a thread one pair of its dims.
int splits = partials_shape[1], H = partials_shape[2], S = cos_shape[0];
int dim = 2 * thread_position_in_threadgroup.x;
int head = threadgroup_position_in_grid.y, row = threadgroup_position_in_grid.x;
auto parts = stats + (size_t(row) * splits * H + head) * 2;
auto sums = partials + (size_t(row) * splits * H + head) * WIDTH + dim;

float exponent = parts[0];
for (int i = 1; i < splits; i++) exponent = precise::max(exponent, parts[size_t(i) * H * 2]);
float total = exp_over_power_of_two(sinks[head], exponent);
float2 pair = float2(0.0f);
for (int i = 0; i < splits; i++) {
  float factor = power_of_two(parts[size_t(i) * H * 2] - exponent);
  total += factor * parts[size_t(i) * H * 2 + 1];
  pair.x += factor * sums[size_t(i) * H * WIDTH];
  pair.y += factor * sums[size_t(i) * H * WIDTH + 1];
}
pair = finished_pair<WIDTH, ROPE, OFFICIAL>(
    pair / total, dim, cos + (row % S) * (ROPE / 2), sin + (row % S) * (ROPE / 2));
auto place = output + (size_t(row) * H + head) * WIDTH + dim;
place[0] = pair.x;
place[1] = pair.y;
