#include "formats.metal"

// Few rows times packed weights, float32 accumulation.
//
// A simdgroup owns OUTPUTS rows of a weight and ROWS rows of x. A lane takes sixteen neighbouring codes
// of every weight row at a time, unpacks them once for all rows of x, and multiplies their sum by the
// group's scale. Who adds what in which order depends on the width and the format alone: a row has the
// same numbers whatever rows, outputs and matrices are beside it. Products and sums are fused by word,
// so that no compiler chooses for one number of rows otherwise than for another.

constant constexpr int AFFINE = 0;
constant constexpr int MXFP8 = 1;
constant constexpr int MXFP4 = 2;
constant constexpr int CHUNK = 16;   // codes of a lane
constant constexpr int OUTPUTS = 4;  // of a simdgroup

template <int F> struct Format {};
template <int N> struct Bits {};

// Sixteen codes; where they are an odd number of bytes, half of the last word is empty.
template <int BITS> struct Codes { uint words[(BITS + 1) / 2]; };
struct Eight { float values[8]; };

// Chunk `chunk` of an array of words: in the largest loads that its alignment allows.

template <typename Words>
Codes<8> codes_at(Words words, size_t chunk, Bits<8>) {
  uint4 four = *(const device uint4*)(words + 4 * chunk);
  return Codes<8>{{four.x, four.y, four.z, four.w}};
}

template <typename Words>
Codes<4> codes_at(Words words, size_t chunk, Bits<4>) {
  uint2 two = *(const device uint2*)(words + 2 * chunk);
  return Codes<4>{{two.x, two.y}};
}

template <typename Words, int BITS>
Codes<BITS> codes_at(Words words, size_t chunk, Bits<BITS>) {
  Codes<BITS> found;
  if (BITS % 2 == 0) {
    #pragma unroll
    for (int i = 0; i < BITS / 2; i++) found.words[i] = words[chunk * (BITS / 2) + i];
  } else {
    const device ushort* halves = (const device ushort*)words + chunk * BITS;
    #pragma unroll
    for (int i = 0; i < (BITS + 1) / 2; i++)
      found.words[i] = uint(halves[2 * i]) | (2 * i + 1 < BITS ? uint(halves[2 * i + 1]) << 16 : 0u);
  }
  return found;
}

// Two halves of a word as numbers.
float lower_half(uint pair) { return float(as_type<half>(ushort(pair & 0xFFFFu))); }
float upper_half(uint pair) { return float(as_type<half>(ushort(pair >> 16))); }

// Half of a chunk as numbers, without the group's scale and divided by the format's FACTOR. A code's bits
// are those of a half 2^-8 or 2^-14 times as large, subnormal codes too, whose halves GPUs do not take
// for zero. e4m3's 0x7F, not a number, is in no weight.

Eight eight(Codes<8> codes, int part, Format<MXFP8>) {
  Eight found;
  #pragma unroll
  for (int i = 0; i < 2; i++) {
    uint even = codes.words[2 * part + i], odd = even >> 8;
    even = (even & 0x00800080u) << 8 | (even & 0x007F007Fu) << 7;
    odd = (odd & 0x00800080u) << 8 | (odd & 0x007F007Fu) << 7;
    found.values[4 * i] = lower_half(even);
    found.values[4 * i + 1] = lower_half(odd);
    found.values[4 * i + 2] = upper_half(even);
    found.values[4 * i + 3] = upper_half(odd);
  }
  return found;
}

Eight eight(Codes<4> codes, int part, Format<MXFP4>) {
  Eight found;
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    uint pair = codes.words[part] >> (4 * i);
    pair = (pair & 0x00080008u) << 12 | (pair & 0x00070007u) << 9;
    found.values[i] = lower_half(pair);
    found.values[4 + i] = upper_half(pair);
  }
  return found;
}

template <int BITS>
Eight eight(Codes<BITS> codes, int part, Format<AFFINE>) {
  Eight found;
  #pragma unroll
  for (int i = 0; i < 8; i++) {
    int bit = (8 * part + i) * BITS, word = bit / 32, shift = bit % 32;
    uint code = codes.words[word] >> shift;
    if (shift + BITS > 32) code |= codes.words[min(word + 1, (BITS - 1) / 2)] << (32 - shift);
    found.values[i] = float(code & ((1u << BITS) - 1u));
  }
  return found;
}

float scale_of(uint8_t scale) { return from_e8m0(scale); }
template <typename T>
float scale_of(T scale) { return float(scale); }

// body
// x [rows, width] float32, codes [matrices outputs, width BITS / 32], scales and, where AFFINE, biases
// [matrices outputs, width / GROUP] -> product [results, outputs].
//
// Without EXPERTS one matrix of `outputs` rows in `sharing` blocks: result r, block b is of x's row
// sharing r + b. With EXPERTS result r is of x's row r / sharing and of matrix experts[r]; all results
// of one matrix are made together, by the threadgroups of the first of them.
constexpr float FACTOR = FORMAT == MXFP8 ? 256.0f : FORMAT == MXFP4 ? 16384.0f : 1.0f;
uint lane = thread_index_in_simdgroup;
uint first_output = (threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup) *
                    uint(OUTPUTS);
uint chunks = uint(width) / CHUNK, groups = uint(width) / GROUP;
uint next = threadgroup_position_in_grid.y * (EXPERTS ? 1 : ROWS), last = uint(results);
uint matrix = 0;
bool mine = first_output < uint(outputs);
if (EXPERTS) {
  matrix = uint(experts[next]);
  bool earlier = false;
  for (uint i = lane; i < next; i += 32) earlier = earlier || uint(experts[i]) == matrix;
  mine = !simd_any(earlier) && mine;
} else {
  last = min(last, next + ROWS);
}

size_t own[OUTPUTS];  // rows of the weight; beyond the last the last is read again
#pragma unroll
for (int o = 0; o < OUTPUTS; o++)
  own[o] = size_t(matrix) * uint(outputs) + min(first_output + o, uint(outputs) - 1);

while (mine && next < last) {
  int count = 0;
  size_t places[ROWS], inputs[ROWS];  // the results, and where their rows of x begin
  #pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (EXPERTS) {
      while (next < last && uint(experts[next]) != matrix) next++;
    }
    places[r] = next;
    inputs[r] = 0;
    if (next < last) {
      count = r + 1;
      size_t row = EXPERTS ? next / uint(sharing)
                           : next * size_t(sharing) + first_output / (uint(outputs) / uint(sharing));
      inputs[r] = row * uint(width);
      next++;
    }
  }

  float sums[OUTPUTS * ROWS];  // in registers: every index is known when the loops are unrolled
  #pragma unroll
  for (int i = 0; i < OUTPUTS * ROWS; i++) sums[i] = 0.0f;

  for (uint chunk = lane; chunk < chunks; chunk += 32) {
    Codes<BITS> codes_of[OUTPUTS];
    float group_scales[OUTPUTS], group_biases[OUTPUTS];
    #pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      size_t group = own[o] * groups + chunk * CHUNK / GROUP;
      codes_of[o] = codes_at(codes, own[o] * chunks + chunk, Bits<BITS>());
      group_scales[o] = scale_of(scales[group]);
      group_biases[o] = FORMAT == AFFINE ? scale_of(biases[group]) : 0.0f;
    }
    float parts[OUTPUTS * ROWS], totals[ROWS];
    #pragma unroll
    for (int i = 0; i < OUTPUTS * ROWS; i++) parts[i] = 0.0f;
    #pragma unroll
    for (int r = 0; r < ROWS; r++) totals[r] = 0.0f;
    #pragma unroll
    for (int part = 0; part < 2; part++) {
      Eight weights[OUTPUTS];
      #pragma unroll
      for (int o = 0; o < OUTPUTS; o++) weights[o] = eight(codes_of[o], part, Format<FORMAT>());
      #pragma unroll
      for (int r = 0; r < ROWS; r++) {
        if (r < count) {
          auto numbers = x + inputs[r] + chunk * CHUNK + part * 8;
          float4 low = *(const device float4*)numbers, high = *(const device float4*)(numbers + 4);
          if (FORMAT == AFFINE)
            totals[r] += ((low.x + low.y) + (low.z + low.w)) + ((high.x + high.y) + (high.z + high.w));
          #pragma unroll
          for (int o = 0; o < OUTPUTS; o++) {
            float sum = parts[o * ROWS + r];
            sum = fma(weights[o].values[0], low.x, sum);
            sum = fma(weights[o].values[1], low.y, sum);
            sum = fma(weights[o].values[2], low.z, sum);
            sum = fma(weights[o].values[3], low.w, sum);
            sum = fma(weights[o].values[4], high.x, sum);
            sum = fma(weights[o].values[5], high.y, sum);
            sum = fma(weights[o].values[6], high.z, sum);
            parts[o * ROWS + r] = fma(weights[o].values[7], high.w, sum);
          }
        }
      }
    }
    #pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      #pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float sum = fma(parts[o * ROWS + r] * FACTOR, group_scales[o], sums[o * ROWS + r]);
        sums[o * ROWS + r] = FORMAT == AFFINE ? fma(group_biases[o], totals[r], sum) : sum;
      }
    }
  }

  #pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (r < count) {
      #pragma unroll
      for (int o = 0; o < OUTPUTS; o++) {
        float sum = simd_sum(sums[o * ROWS + r]);
        uint output = first_output + o;
        if (lane == 0 && output < uint(outputs)) product[places[r] * uint(outputs) + output] = sum;
      }
    }
  }
}
