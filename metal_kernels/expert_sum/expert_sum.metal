// The routed experts' outputs of a token and the shared expert's, added in float32.

template <int N> struct Wide {};

float rounded_if(bool rounds, float value) { return rounds ? float(bfloat16_t(value)) : value; }

template <typename In, typename Shared, typename Out>
void add_experts(In routed, Shared shared, Out out, uint count, uint width, bool rounds, Wide<1>) {
  float total = 0.0f;
  for (uint i = 0; i < count; i++) total += routed[i * width];
  *out = rounded_if(rounds, total + *shared);
}

// Four neighbouring channels by 16-byte loads and one 16-byte store.
void add_experts(const device float* routed, const device float* shared, device float* out,
                 uint count, uint width, bool rounds, Wide<4>) {
  float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
  for (uint i = 0; i < count; i++) {
    float4 four = *(const device float4*)(routed + i * width);
    a += four.x, b += four.y, c += four.z, d += four.w;
  }
  float4 last = *(const device float4*)shared;
  *(device float4*)out = float4(rounded_if(rounds, a + last.x), rounded_if(rounds, b + last.y),
                                rounded_if(rounds, c + last.z), rounded_if(rounds, d + last.w));
}

// body
// routed [M, k, D], shared [M, D] -> total [M, D]
uint channel = thread_position_in_grid.x * WIDE, row = thread_position_in_grid.y;
uint count = routed_shape[1], width = routed_shape[2];
if (row < uint(routed_shape[0]) && channel < width) {
  size_t place = size_t(row) * width + channel;
  add_experts(routed + size_t(row) * count * width + channel, shared + place, total + place, count,
              width, OFFICIAL, Wide<WIDE>());
}
