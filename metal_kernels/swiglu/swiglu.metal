// Clamped SwiGLU of two matrices in one launch: the routed rows, then the shared expert's.

template <int N> struct Wide {};

// Comparisons instead of min and max, which would turn NaN into the limit.
float clamped_swiglu(float gate, float up, float limit) {
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : (up < -limit ? -limit : up);
  return gate / (1.0f + precise::exp(-gate)) * up;
}

template <typename In, typename Out>
void activate(In gate, In up, Out out, float limit, float scale, Wide<1>) {
  *out = clamped_swiglu(*gate, *up, limit) * scale;
}

// Four neighbouring channels by 16-byte loads and one 16-byte store.
void activate(const device float* gate, const device float* up, device float* out, float limit,
              float scale, Wide<4>) {
  float4 g = *(const device float4*)gate, u = *(const device float4*)up;
  *(device float4*)out = float4(
      clamped_swiglu(g.x, u.x, limit) * scale, clamped_swiglu(g.y, u.y, limit) * scale,
      clamped_swiglu(g.z, u.z, limit) * scale, clamped_swiglu(g.w, u.w, limit) * scale);
}

// body
// gate_up [R, 2 I] and weights [R] -> activated [R, I]; shared [M, 2 J] -> shared_activated [M, J]
uint channel = thread_position_in_grid.x * WIDE, row = thread_position_in_grid.y;
uint routed_rows = gate_up_shape[0], width = gate_up_shape[1] / 2;
uint shared_width = shared_shape[1] / 2;
if (row < routed_rows) {
  if (channel < width) {
    auto gate = gate_up + size_t(row) * 2 * width + channel;
    float scale = WEIGHTED ? float(weights[row]) : 1.0f;
    activate(gate, gate + width, activated + size_t(row) * width + channel, limit, scale,
             Wide<WIDE>());
  }
} else if (row < routed_rows + shared_rows && channel < shared_width) {
  row -= routed_rows;
  auto gate = shared + size_t(row) * 2 * shared_width + channel;
  activate(gate, gate + shared_width, shared_activated + size_t(row) * shared_width + channel,
           limit, 1.0f, Wide<WIDE>());
}
