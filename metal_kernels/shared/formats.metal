#include "bfloat16.metal"

// Number formats and stored rows, value for value what formats.py computes. Scales are e8m0 bytes.
// A maximum of magnitudes is taken over bits, as unsigned integers, where NaN is above infinity.
// Rows are read and written byte by byte: a packed row of 583 bytes begins at any address.

constant constexpr uint FP8_KV_BLOCK = 64;
constant constexpr uint FP4_BLOCK = 32;
constant constexpr uint NAN_SCALE = 255;

uint magnitude_bits(float x) { return as_type<uint>(x) & 0x7FFFFFFFu; }

// e4m3: the nearest code, ties to even, at most 448. Subnormal codes are steps of 2^-9. A number that
// is none becomes 448, as MLX has it: NaN is kept in the scale.

uint to_e4m3(float x) {
  uint magnitude = magnitude_bits(x);
  uint code;
  if (magnitude >= 0x43E00000u) {  // 448
    code = 0x7Eu;
  } else if (magnitude < 0x3C800000u) {  // 2^-6, the smallest normal number
    code = uint(rint(as_type<float>(magnitude) * 512.0f));
  } else {
    uint rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
    code = (rounded >> 20) - (120u << 3);
  }
  return code | ((as_type<uint>(x) >> 24) & 0x80u);
}

float from_e4m3(uint code) {
  uint magnitude = code & 0x7Fu;
  // No subnormal float in between: a GPU may take it for zero.
  float value = magnitude < 8u ? float(magnitude) * 0.001953125f
                               : as_type<float>((magnitude << 20) + (120u << 23));
  value = magnitude == 0x7Fu ? NAN : value;
  return (code & 0x80u) != 0u ? -value : value;
}

// e2m1: the nearest of 0, 0.5, 1, 1.5, 2, 3, 4 and 6, ties to the even code. Four bits.

uint to_e2m1(float x) {
  uint magnitude = magnitude_bits(x);
  uint code;
  if (magnitude >= 0x40C00000u) {  // 6
    code = 7u;
  } else if (magnitude < 0x3F800000u) {  // 1
    code = uint(rint(as_type<float>(magnitude) * 2.0f));
  } else {
    uint rounded = magnitude + 0x1FFFFFu + ((magnitude >> 22) & 1u);
    code = (rounded >> 22) - (126u << 1);
  }
  return code | ((as_type<uint>(x) >> 28) & 8u);
}

float from_e2m1(uint code) {
  uint magnitude = code & 7u;
  float value = magnitude < 2u ? float(magnitude) * 0.5f
                               : as_type<float>((magnitude << 22) + (126u << 23));
  return (code & 8u) != 0u ? -value : value;
}

// e8m0: 2^(b - 127).

float from_e8m0(uint scale) {
  uint bits = scale == 0u ? 0x00400000u : scale << 23;
  return scale == NAN_SCALE ? NAN : as_type<float>(bits);
}

// 1 / scale, for scales of a quantiser: bytes 1 to 253. For NAN_SCALE it is any number.
float inverse_e8m0(uint scale) { return as_type<float>((254u - min(scale, 253u)) << 23); }

// 2^ceil(log2(amax / limit)) by exponent bits, of the bits of amax; NaN for NaN and infinity.
uint power_of_two_scale(uint amax_bits, float reciprocal) {
  if (amax_bits >= 0x7F800000u) return NAN_SCALE;
  uint bits = as_type<uint>(as_type<float>(amax_bits) * reciprocal);
  return (bits >> 23) + ((bits & 0x7FFFFFu) != 0u ? 1u : 0u);
}

// The scales of a block whose largest magnitude has these bits. Below the floors, 1e-4 and
// 6 * 2^-126, they stay what they are there.

uint fp8_scale(uint amax_bits) {
  return power_of_two_scale(max(amax_bits, as_type<uint>(1e-4f)), 1.0f / 448.0f);
}

uint fp4_scale(uint amax_bits) {
  return power_of_two_scale(max(amax_bits, 0x01C00000u), 1.0f / 6.0f);
}

float round_fp8(float x, uint scale) {
  return from_e4m3(to_e4m3(x * inverse_e8m0(scale))) * from_e8m0(scale);
}

float round_fp4(float x, uint scale) {
  return from_e2m1(to_e2m1(x * inverse_e8m0(scale))) * from_e8m0(scale);
}

// Elements of a stored latent and of a stored key.

template <typename T>
uint latent_elements(uint width, uint rope_dims) {
  uint scales = (width - rope_dims + FP8_KV_BLOCK - 1) / FP8_KV_BLOCK;
  return sizeof(T) == 1 ? width + rope_dims + scales : width;
}

template <typename T>
uint key_elements(uint width) {
  return sizeof(T) == 1 ? width / 2 + (width + FP4_BLOCK - 1) / FP4_BLOCK : width;
}

// Stored rows by the bytes of an element: 4 is float32, 2 bfloat16, 1 packed. `Row` is a pointer to
// the row's first element, `T` its element.

template <int element_bytes>
struct StoredRow {
  template <typename Row>
  static float latent(Row row, uint dim, uint width, uint rope_dims) {
    return float(row[dim]);
  }

  template <typename Row>
  static float key(Row row, uint dim, uint width) {
    return float(row[dim]);
  }

  template <typename T, typename Row>
  static void put_latent(
      Row row, uint dim, uint width, uint rope_dims, float even, float odd, uint scale) {
    row[dim] = T(even);
    row[dim + 1] = T(odd);
  }

  template <typename T, typename Row>
  static void put_key(Row row, uint dim, uint width, float even, float odd, uint scale) {
    row[dim] = T(even);
    row[dim + 1] = T(odd);
  }
};

// Packed latent: K - r codes of e4m3, r bf16 in two bytes each, a scale for 64 codes. Packed key: Ki / 2
// bytes of two e2m1 codes, the even dim's in the low nibble, a scale for 32 codes.
template <>
struct StoredRow<1> {
  template <typename Row>
  static float latent(Row row, uint dim, uint width, uint rope_dims) {
    uint plain = width - rope_dims;
    if (dim < plain) {
      uint scale = row[plain + 2 * rope_dims + dim / FP8_KV_BLOCK];
      return from_e4m3(row[dim]) * from_e8m0(scale);
    }
    uint at = plain + 2 * (dim - plain);
    return from_bf16_bits(uint(row[at]) | (uint(row[at + 1]) << 8));
  }

  template <typename Row>
  static float key(Row row, uint dim, uint width) {
    uint code = uint(row[dim / 2]) >> (4 * (dim % 2));
    return from_e2m1(code) * from_e8m0(row[width / 2 + dim / FP4_BLOCK]);
  }

  template <typename T, typename Row>
  static void put_latent(
      Row row, uint dim, uint width, uint rope_dims, float even, float odd, uint scale) {
    uint plain = width - rope_dims;
    if (dim >= plain) {
      uint at = plain + 2 * (dim - plain);
      uint low = to_bf16_bits(even), high = to_bf16_bits(odd);
      row[at] = T(low & 0xFFu);
      row[at + 1] = T(low >> 8);
      row[at + 2] = T(high & 0xFFu);
      row[at + 3] = T(high >> 8);
      return;
    }
    float inverse = inverse_e8m0(scale);
    row[dim] = T(to_e4m3(even * inverse));
    row[dim + 1] = T(to_e4m3(odd * inverse));
    if (dim % FP8_KV_BLOCK == 0) row[plain + 2 * rope_dims + dim / FP8_KV_BLOCK] = T(scale);
  }

  template <typename T, typename Row>
  static void put_key(Row row, uint dim, uint width, float even, float odd, uint scale) {
    float inverse = inverse_e8m0(scale);
    row[dim / 2] = T(to_e2m1(even * inverse) | (to_e2m1(odd * inverse) << 4));
    if (dim % FP4_BLOCK == 0) row[width / 2 + dim / FP4_BLOCK] = T(scale);
  }
};

// Dim `dim` of a stored latent of `width` dims, the last `rope_dims` of them rotated.
template <typename Row>
float load_latent(Row row, uint dim, uint width, uint rope_dims) {
  return StoredRow<sizeof(row[0])>::latent(row, dim, width, rope_dims);
}

// Dim `dim` of a stored index key of `width` dims.
template <typename Row>
float load_key(Row row, uint dim, uint width) {
  return StoredRow<sizeof(row[0])>::key(row, dim, width);
}

// Write dims `dim` and `dim + 1`, `dim` even, of a latent rounded at `scale`, its block's. The pair
// that begins a block writes the scale.
template <typename T, typename Row>
void store_latent_pair(
    Row row, uint dim, uint width, uint rope_dims, float even, float odd, uint scale) {
  StoredRow<sizeof(T)>::template put_latent<T>(row, dim, width, rope_dims, even, odd, scale);
}

// Write dims `dim` and `dim + 1` of an index key rounded at `scale`; likewise.
template <typename T, typename Row>
void store_key_pair(Row row, uint dim, uint width, float even, float odd, uint scale) {
  StoredRow<sizeof(T)>::template put_key<T>(row, dim, width, even, odd, scale);
}

// Pairs: a thread holds dims `dim` and `dim + 1`, a simdgroup 64 dims from a multiple of 64 on.

// Round a latent as fp8_kv does where ROUNDS, and write it. All lanes of a simdgroup come here; a
// thread whose dims do not exist writes nothing.
template <bool ROUNDS, typename T, typename Row>
void finish_latent_pair(
    Row row, bool exists, uint dim, uint width, uint rope_dims, float even, float odd) {
  bool plain = exists && dim < width - rope_dims;
  uint scale = 0;
  if (ROUNDS) {
    even = round_bf16(even);
    odd = round_bf16(odd);
  }
  if (ROUNDS || sizeof(T) == 1) {
    scale = fp8_scale(simd_max(plain ? max(magnitude_bits(even), magnitude_bits(odd)) : 0u));
  }
  if (ROUNDS && plain) {
    even = round_fp8(even, scale);
    odd = round_fp8(odd, scale);
  }
  if (exists) store_latent_pair<T>(row, dim, width, rope_dims, even, odd, scale);
}
