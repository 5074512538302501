#include "formats.metal"

// Lanes: lane l of a simdgroup holds dims l, l + 32, ... below WIDTH in `values`, and 0 beyond. Loops
// over them are unrolled by force: an index that is no constant would put registers into memory.

// Rotate the last 2 `pairs` dims; a pair is two neighbouring lanes.
template <uint WIDTH, typename Values, typename Table>
void rotate_lanes(Values values, Table cosines, Table sines, uint pairs, uint lane) {
  uint plain = WIDTH - 2 * pairs;
#pragma unroll
  for (uint j = 0; j < (WIDTH + 31) / 32; j++) {
    uint dim = lane + 32 * j;
    float other = simd_shuffle_xor(values[j], 1);
    if (dim >= plain && dim < WIDTH) {
      float c = cosines[(dim - plain) / 2], s = sines[(dim - plain) / 2];
      values[j] = lane % 2 == 0 ? values[j] * c - other * s : other * s + values[j] * c;
    }
  }
}

// Orthonormal Walsh-Hadamard transform in natural order; WIDTH is a power of two.
template <uint WIDTH, typename Values>
void hadamard_lanes(Values values, uint lane) {
  constexpr uint COUNT = (WIDTH + 31) / 32;
  for (uint h = 1; h < 32 && h < WIDTH; h *= 2) {
#pragma unroll
    for (uint j = 0; j < COUNT; j++) {
      float other = simd_shuffle_xor(values[j], h);
      values[j] = (lane & h) != 0 ? other - values[j] : values[j] + other;
    }
  }
#pragma unroll
  for (uint h = 1; h < COUNT; h *= 2) {
#pragma unroll
    for (uint j = 0; j < COUNT; j++) {
      if ((j & h) != 0) continue;
      float low = values[j], high = values[j + h];
      values[j] = low + high;
      values[j + h] = low - high;
    }
  }
  // WIDTH^-0.5, the nearest float: powers of two times the root of a half.
  float scale = 1.0f;
  uint rest = WIDTH;
  for (; rest >= 4; rest /= 4) scale *= 0.5f;
  if (rest == 2) scale *= 0.70710678118654752f;
#pragma unroll
  for (uint j = 0; j < COUNT; j++) values[j] *= scale;
}

// Round an index query or key as hadamard_fp4 does: bf16, Hadamard, bf16, FP4 by 32 dims.
template <uint WIDTH, typename Values>
void hadamard_fp4_lanes(Values values, uint lane) {
#pragma unroll
  for (uint j = 0; j < (WIDTH + 31) / 32; j++) values[j] = round_bf16(values[j]);
  hadamard_lanes<WIDTH>(values, lane);
#pragma unroll
  for (uint j = 0; j < (WIDTH + 31) / 32; j++) {
    float x = round_bf16(values[j]);
    values[j] = round_fp4(x, fp4_scale(simd_max(magnitude_bits(x))));
  }
}

// Write an index key that was rounded so; the even lane of a pair writes both.
template <uint WIDTH, typename T, typename Row, typename Values>
void store_key_lanes(Row row, Values values, uint lane) {
#pragma unroll
  for (uint j = 0; j < (WIDTH + 31) / 32; j++) {
    uint dim = lane + 32 * j;
    uint scale = sizeof(T) == 1 ? fp4_scale(simd_max(magnitude_bits(values[j]))) : 0u;
    float odd = simd_shuffle_xor(values[j], 1);
    if (lane % 2 == 0 && dim < WIDTH) {
      store_key_pair<T>(row, dim, WIDTH, values[j], odd, scale);
    }
  }
}
