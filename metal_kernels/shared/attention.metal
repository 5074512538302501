#include "bfloat16.metal"

// Softmax by powers of two, and the end of attention: what its parts and their merge share.
//
// A head's weights are exp(score) / 2^exponent, where 2^exponent is at least the largest exp(score)
// seen so far. When the exponent grows, all that was summed shrinks by a power of two, which is
// exact; and bfloat16 rounds a weight alike whatever the exponent.

// An exponent below every score's. It is finite: infinity minus itself would be NaN.
constant constexpr float NO_EXPONENT = -1e30f;

constant constexpr int KEY_TILE = 8;      // keys that are weighed together
constant constexpr int FEWEST_KEYS = 32;  // of a split, where there are several

float exponent_above(float score) { return ceil(score * 1.4426950408889634f); }

// 2^exponent for exponents up to 0; 0 for NaN and where float32 has no normal number.
float power_of_two(float exponent) {
  return exponent > -127.0f ? as_type<float>(uint(int(exponent) + 127) << 23) : 0.0f;
}

// exp(x) / 2^exponent. ln 2 is taken in two parts: an exponent times the first, of 9 bits, is exact.
float exp_over_power_of_two(float x, float exponent) {
  return precise::exp(fma(exponent, 2.12194440e-4f, fma(exponent, -0.693359375f, x)));
}

// One pair of dims of the output: the last ROPE dims are rotated back by the query's angle, and
// official numerics round to bfloat16. cos and sin are the query's, [ROPE / 2].
template <int WIDTH, int ROPE, bool OFFICIAL, typename Cos, typename Sin>
float2 finished_pair(float2 pair, int dim, Cos cos, Sin sin) {
  if (dim >= WIDTH - ROPE) {
    float c = cos[(dim - (WIDTH - ROPE)) / 2], s = sin[(dim - (WIDTH - ROPE)) / 2];
    pair = float2(pair.x * c + pair.y * s, pair.y * c - pair.x * s);
  }
  return OFFICIAL ? float2(round_bf16(pair.x), round_bf16(pair.y)) : pair;
}

// The keys of one split of a query's.
struct KeyRange { int begin, end; };

// A query's own `count` of keys decides its splits, so that its bits do too; those of `most` that it
// does not need are empty. The last one has the places from `count` to `stop`.
KeyRange range_of_split(int split, int most, int count, int stop) {
  int wanted = max(1, min(most, count / FEWEST_KEYS));
  int each = (count + wanted * KEY_TILE - 1) / (wanted * KEY_TILE) * KEY_TILE;
  int begin = split * each, last = (count - 1) / each;
  if (split > last) return KeyRange{stop, stop};
  return KeyRange{begin, split == last ? stop : begin + each};
}
