#include "formats.metal"

// Rows of one expert times its MXFP4 matrix, by 8x8 matrices of simdgroups.
//
// A threadgroup has a block of at most BLOCK rows and 64 outputs, 16 for each simdgroup, which reads
// their codes once and keeps all sums of the block in registers; nothing passes through threadgroup
// memory and no thread waits for another. Eights of rows that the block has not are left out, and up to
// FEW rows are multiplied number by number: so few cost less than an eight, and reading the codes
// remains what takes the time.
//
// A group of 32 inputs is four products: product j has the inputs 4 i + j in the order of i. So the
// codes that a lane needs of an output are 16 neighbouring bits, and of a row eight neighbouring
// numbers. The order of a sum is that of all rows in blocks as large, FEW or more.

constant constexpr int MATRIX = 8;
constant constexpr int GROUP = 32;
constant constexpr int COLUMNS = 2;  // 8x8 matrices beside each other, of a simdgroup
constant constexpr int FEW = 4;

// The lane's sixteen weights of a group: of each of its outputs four neighbouring inputs.
struct GroupWeights { float4 outputs[COLUMNS * 2]; };

// Four neighbouring e2m1 codes as numbers. A code's bits are those of a half 2^-14 times as large, the
// subnormal code too, whose half GPUs do not take for zero.
float4 from_e2m1_four(uint codes) {
  uint low = codes | codes << 12, high = codes >> 8 | codes >> 8 << 12;
  half2 first = as_type<half2>((low & 0x00080008u) << 12 | (low & 0x00070007u) << 9);
  half2 second = as_type<half2>((high & 0x00080008u) << 12 | (high & 0x00070007u) << 9);
  return float4(first.x, first.y, second.x, second.y) * 16384.0f;
}

template <typename Codes, typename Scales>
GroupWeights group_weights(
    Codes codes, Scales scales, thread const size_t* own, uint groups, uint group, uint lane_row) {
  GroupWeights found;
#pragma unroll
  for (int i = 0; i < COLUMNS * 2; i++) {
    size_t place = own[i] * groups + group;
    uint word = codes[place * 4 + lane_row / 2];
    found.outputs[i] =
        from_e2m1_four(word >> (lane_row % 2 * 16) & 0xFFFFu) * from_e8m0(scales[place]);
  }
  return found;
}

// body
// x [M, in] float32, codes [E, out, in / 8], scales [E, out, in / 32], table of expert_blocks.metal;
// GATHERED with rows [R], row r of x is rows[r] -> product [R, out].
constexpr int TILES = BLOCK / MATRIX;
uint lane = thread_index_in_simdgroup;
// Row and first column of the lane's two elements of every matrix.
uint lane_row = (lane / 16) * 4 + (lane / 2) % 4;
uint lane_column = (lane / 8) % 2 * 4 + lane % 2 * 2;

uint width = x_shape[1], groups = width / GROUP, outputs = codes_shape[1];
uint block = threadgroup_position_in_grid.y;
uint expert = table[3 * block], first_row = table[3 * block + 1];
int count = table[3 * block + 2];
uint first_output = (threadgroup_position_in_grid.x * (threads_per_threadgroup.x / 32) +
                     simdgroup_index_in_threadgroup) * MATRIX * COLUMNS;

size_t own[COLUMNS * 2];  // the lane's outputs, as rows of all matrices
#pragma unroll
for (int c = 0; c < COLUMNS; c++) {
  uint output = first_output + c * MATRIX + lane_column;
  own[2 * c] = size_t(expert) * outputs + min(output, outputs - 1);
  own[2 * c + 1] = size_t(expert) * outputs + min(output + 1, outputs - 1);
}

if (first_output >= outputs) {
  // nothing to do
} else if (count <= FEW) {
  size_t places[FEW];  // of a row's numbers for the lane
  float sums[FEW * COLUMNS * 2];
#pragma unroll
  for (int r = 0; r < FEW; r++) {
    uint row = first_row + min(r, max(count - 1, 0));
    if (GATHERED) row = min(uint(rows[row]), uint(x_shape[0]) - 1);
    places[r] = size_t(row) * width + 4 * lane_row;
  }
#pragma unroll
  for (int i = 0; i < FEW * COLUMNS * 2; i++) sums[i] = 0.0f;
  for (uint group = 0; count > 0 && group < groups; group++) {
    GroupWeights weights = group_weights(codes, scales, own, groups, group, lane_row);
#pragma unroll
    for (int r = 0; r < FEW; r++) {
      if (r < count) {
        float4 four = *(const device float4*)(x + places[r] + group * GROUP);
#pragma unroll
        for (int i = 0; i < COLUMNS * 2; i++) {
          float4 weight = weights.outputs[i];
          float sum = sums[r * COLUMNS * 2 + i];
          sum = fma(weight.x, four.x, sum);
          sum = fma(weight.y, four.y, sum);
          sum = fma(weight.z, four.z, sum);
          sums[r * COLUMNS * 2 + i] = fma(weight.w, four.w, sum);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < FEW; r++) {
#pragma unroll
    for (int i = 0; i < COLUMNS * 2; i++) {
      float sum = sums[r * COLUMNS * 2 + i];  // the eight lanes of an output have other inputs
      sum += simd_shuffle_xor(sum, 2);
      sum += simd_shuffle_xor(sum, 4);
      sum += simd_shuffle_xor(sum, 16);
      uint output = first_output + i / 2 * MATRIX + lane_column + i % 2;
      if (r < count && int(lane_row) == r && output < outputs)
        product[size_t(first_row + r) * outputs + output] = sum;
    }
  }
} else {
  size_t places[TILES];  // of the lane's numbers of a row
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    // Beyond the last row the last is read again and its sums dropped.
    uint row = first_row + min(t * MATRIX + int(lane_row), count - 1);
    if (GATHERED) row = min(uint(rows[row]), uint(x_shape[0]) - 1);
    places[t] = size_t(row) * width + 4 * lane_column;
  }
  simdgroup_float8x8 sums[TILES * COLUMNS];
#pragma unroll
  for (int i = 0; i < TILES * COLUMNS; i++)
    sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

  for (uint group = 0; group < groups; group++) {
    GroupWeights weights = group_weights(codes, scales, own, groups, group, lane_row);
    simdgroup_float8x8 matrices[COLUMNS * 4];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      float4 even = weights.outputs[2 * c], odd = weights.outputs[2 * c + 1];
      matrices[4 * c].thread_elements()[0] = even.x;
      matrices[4 * c].thread_elements()[1] = odd.x;
      matrices[4 * c + 1].thread_elements()[0] = even.y;
      matrices[4 * c + 1].thread_elements()[1] = odd.y;
      matrices[4 * c + 2].thread_elements()[0] = even.z;
      matrices[4 * c + 2].thread_elements()[1] = odd.z;
      matrices[4 * c + 3].thread_elements()[0] = even.w;
      matrices[4 * c + 3].thread_elements()[1] = odd.w;
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      if (t * MATRIX < count) {
        const device float* numbers = x + places[t] + group * GROUP;
        float4 low = *(const device float4*)numbers, high = *(const device float4*)(numbers + 4);
        simdgroup_float8x8 inputs[4];
        inputs[0].thread_elements()[0] = low.x;
        inputs[0].thread_elements()[1] = high.x;
        inputs[1].thread_elements()[0] = low.y;
        inputs[1].thread_elements()[1] = high.y;
        inputs[2].thread_elements()[0] = low.z;
        inputs[2].thread_elements()[1] = high.z;
        inputs[3].thread_elements()[0] = low.w;
        inputs[3].thread_elements()[1] = high.w;
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
          for (int c = 0; c < COLUMNS; c++)
            simdgroup_multiply_accumulate(
                sums[t * COLUMNS + c], inputs[j], matrices[4 * c + j], sums[t * COLUMNS + c]);
        }
      }
    }
  }

#pragma unroll
  for (int t = 0; t < TILES; t++) {
    int row = t * MATRIX + int(lane_row);
    if (row < count) {
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        uint output = first_output + c * MATRIX + lane_column;
        size_t place = size_t(first_row + row) * outputs + output;
        if (output < outputs) product[place] = sums[t * COLUMNS + c].thread_elements()[0];
        if (output + 1 < outputs) product[place + 1] = sums[t * COLUMNS + c].thread_elements()[1];
      }
    }
  }
}
