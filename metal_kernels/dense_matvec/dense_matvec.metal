// Few rows times a dense weight, float32 accumulation.
//
// A threadgroup owns OUTPUTS rows of the weight and ROWS rows of x. Its simdgroups share the columns
// among them, so that a small weight still keeps many simdgroups busy; a lane takes WIDE
// neighbouring columns of every weight row at a time, and each weight is read once. fma, so that all
// numbers of rows round alike.

template <int N> struct Columns { float values[N]; };
template <int N> struct Wide {};

// Eight neighbouring numbers in 16-byte loads.
Columns<8> eight(const device float* p) {
  float4 a = *(const device float4*)p, b = *(const device float4*)(p + 4);
  return Columns<8>{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// A bfloat16 is the upper half of a float32.
float lower_bfloat(uint pair) { return as_type<float>(pair << 16); }
float upper_bfloat(uint pair) { return as_type<float>(pair & 0xffff0000u); }

Columns<8> eight(const device bfloat16_t* p) {
  uint4 w = *(const device uint4*)p;
  return Columns<8>{{lower_bfloat(w.x), upper_bfloat(w.x), lower_bfloat(w.y), upper_bfloat(w.y),
                     lower_bfloat(w.z), upper_bfloat(w.z), lower_bfloat(w.w), upper_bfloat(w.w)}};
}

template <typename Pointer>
Columns<8> columns(Pointer p, Wide<8>) { return eight(p); }

template <typename Pointer>
Columns<1> columns(Pointer p, Wide<1>) {
  return Columns<1>{{float(*p)}};
}

// body
// x [M, in] float32, weight [out, in] -> product [M, out]
uint rows = x_shape[0], width = x_shape[1], outputs = weight_shape[0];
uint lane = thread_index_in_simdgroup, simdgroup = simdgroup_index_in_threadgroup;
uint thread_index = thread_position_in_threadgroup.x;
uint first_output = threadgroup_position_in_grid.x * OUTPUTS;
uint first_row = threadgroup_position_in_grid.y * ROWS;

threadgroup float partial_sums[SIMDGROUPS * OUTPUTS * ROWS];

float sums[OUTPUTS * ROWS];  // in registers: every index is known when the loops are unrolled
#pragma unroll
for (int i = 0; i < OUTPUTS * ROWS; i++) sums[i] = 0.0f;

for (uint column = (simdgroup * 32 + lane) * WIDE; column < width;
     column += SIMDGROUPS * 32 * WIDE) {
  // Beyond the last row the last is read again and its sum dropped: no branch in the loop.
  Columns<WIDE> weights[OUTPUTS];
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++) {
    size_t row = min(first_output + o, outputs - 1);
    weights[o] = columns(weight + row * width + column, Wide<WIDE>());
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    size_t row = min(first_row + r, rows - 1);
    Columns<WIDE> inputs = columns(x + row * width + column, Wide<WIDE>());
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
#pragma unroll
      for (int i = 0; i < WIDE; i++)
        sums[o * ROWS + r] = fma(weights[o].values[i], inputs.values[i], sums[o * ROWS + r]);
    }
  }
}

#pragma unroll
for (int i = 0; i < OUTPUTS * ROWS; i++) {
  float sum = simd_sum(sums[i]);
  if (lane == 0) partial_sums[simdgroup * OUTPUTS * ROWS + i] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

uint output = first_output + thread_index / ROWS, row = first_row + thread_index % ROWS;
if (thread_index < OUTPUTS * ROWS && output < outputs && row < rows) {
  float sum = 0.0f;
  for (int s = 0; s < SIMDGROUPS; s++) sum += partial_sums[s * OUTPUTS * ROWS + thread_index];
  product[size_t(row) * outputs + output] = sum;
}
