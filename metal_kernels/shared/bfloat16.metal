// bfloat16: the nearest, ties to even; NaN stays NaN.

uint to_bf16_bits(float x) {
  uint bits = as_type<uint>(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u | ((bits >> 16) & 0x8000u);
  return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}

float from_bf16_bits(uint bits) { return as_type<float>(bits << 16); }

float round_bf16(float x) { return from_bf16_bits(to_bf16_bits(x)); }
