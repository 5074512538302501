#include "formats.metal"

// Rows of one expert times its MXFP4 matrix, without matrix instructions.
//
// A threadgroup has a block of at most BLOCK rows and 32 outputs. A group of 32 inputs at a time is
// unpacked into threadgroup memory, and each of its 128 threads multiplies two rows by four outputs.
// Eights of rows that the block has not are left out; the order of a sum is the same in every row.

constant constexpr uint GROUP = 32;
constant constexpr uint TILE = 32;  // outputs of a threadgroup
constant constexpr uint OUTPUT_LANES = 8;
constant constexpr uint STRIDE = GROUP + 1;

// body
// Arguments as those of expert_matmul.metal.
threadgroup float row_slice[BLOCK * STRIDE];
threadgroup float weight_slice[TILE * STRIDE];
uint thread_index = thread_position_in_threadgroup.x, threads = 128;
uint output_lane = thread_index % OUTPUT_LANES, row_lane = thread_index / OUTPUT_LANES;

uint width = x_shape[1], outputs = codes_shape[1];
uint block = threadgroup_position_in_grid.y;
uint expert = table[3 * block], first_row = table[3 * block + 1];
uint count = table[3 * block + 2];
uint first_output = threadgroup_position_in_grid.x * TILE;
uint staged = (count + 7) / 8 * 8;
uint groups = count > 0 ? width / GROUP : 0;

float sums[2][4] = {};
for (uint group = 0; group < groups; group++) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < staged * GROUP; i += threads) {
    uint row = first_row + min(i / GROUP, count - 1);
    if (GATHERED) row = min(uint(rows[row]), uint(x_shape[0]) - 1);
    row_slice[i / GROUP * STRIDE + i % GROUP] = x[size_t(row) * width + group * GROUP + i % GROUP];
  }
  for (uint i = thread_index; i < TILE * GROUP / 8; i += threads) {
    uint own = i / 4, part = i % 4;
    size_t output = size_t(expert) * outputs + min(first_output + own, outputs - 1);
    uint word = codes[output * (width / 8) + group * 4 + part];
    float scale = from_e8m0(scales[output * (width / GROUP) + group]);
    for (uint j = 0; j < 8; j++)
      weight_slice[own * STRIDE + part * 8 + j] = from_e2m1(word >> (4 * j)) * scale;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (row_lane < staged) {
    for (uint k = 0; k < GROUP; k++) {
      float numbers[2], weights[4];
      numbers[0] = row_slice[row_lane * STRIDE + k];
      numbers[1] = row_lane + 16 < staged ? row_slice[(row_lane + 16) * STRIDE + k] : 0.0f;
#pragma unroll
      for (int o = 0; o < 4; o++)
        weights[o] = weight_slice[(output_lane + o * OUTPUT_LANES) * STRIDE + k];
#pragma unroll
      for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int o = 0; o < 4; o++) sums[r][o] = fma(numbers[r], weights[o], sums[r][o]);
      }
    }
  }
}
#pragma unroll
for (int r = 0; r < 2; r++) {
  uint row = row_lane + r * 16;
#pragma unroll
  for (int o = 0; o < 4; o++) {
    uint output = first_output + output_lane + o * OUTPUT_LANES;
    if (row < count && output < outputs)
      product[size_t(first_row + row) * outputs + output] = sums[r][o];
  }
}
