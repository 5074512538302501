// The routed experts' outputs of a token and the shared expert's, added in float32.

template <int N> struct Wide {};

template <typename In, typename Shared, typename Out>
void add_experts(In routed, Shared shared, Out out, uint count, uint width, bool rounds, Wide<1>) {
  float total = 0.0f;
  for (uint i = 0; i < count; i++) total += routed[i * width];
  total += *shared;
  *out = rounds ? float(bfloat16_t(total)) : total;
}

// Four neighbouring channels by 16-byte loads and one 16-byte store.
void add_experts(const device float* routed, const device float* shared, device float* out,
                 uint count, uint width, bool rounds, Wide<4>) {
  float4 total = float4(0.0f);
  for (uint i = 0; i < count; i++) total += *(const device float4*)(routed + i * width);
  total += *(const device float4*)shared;
  if (rounds)
    for (int i = 0; i < 4; i++) total[i] = float(bfloat16_t(total[i]));
  *(device float4*)out = total;
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
