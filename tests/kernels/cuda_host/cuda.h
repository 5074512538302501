// What CUDA offers a kernel, on the threads of metalhost's runtime. Only the words that the prelude and
// our texts use; whether they are CUDA's words, NVIDIA's compiler says.
#pragma once

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
using size_t = unsigned long;
using __half = _Float16;
using half = _Float16;
using __nv_bfloat16 = __bf16;

#define __global__
#define __device__
#define __shared__ static
#define __grid_constant__
#define memcpy __builtin_memcpy

struct Slot { unsigned long low, high; };
extern "C" {
unsigned int mh_attribute(unsigned int which, unsigned int dimension);
unsigned long mh_argument(unsigned int number);
void mh_barrier(unsigned int flags, unsigned int site);
void mh_simdgroup_barrier(unsigned int flags, unsigned int site);
unsigned long mh_ballot(unsigned int vote, unsigned int site);
Slot mh_shuffle(Slot value, unsigned int operation, long argument, unsigned int site);
}
#define SITE unsigned int site = __builtin_LINE()

// Where a thread stands; the numbers are the runtime's.
struct uint3 { unsigned int x, y, z; };
inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z) { return {x, y, z}; }
inline uint3 attribute(unsigned int n) {
  return {mh_attribute(n, 0), mh_attribute(n, 1), mh_attribute(n, 2)};
}
#define threadIdx attribute(1)
#define blockIdx attribute(2)
#define gridDim attribute(3)
#define blockDim attribute(5)

// Barriers, and what lanes tell each other.
inline void __syncthreads(SITE) { mh_barrier(3, site); }
inline void __syncwarp(SITE) { mh_simdgroup_barrier(3, site); }

template <typename T>
T handed(unsigned int lanes, T value, unsigned int operation, long argument, unsigned int site) {
  if (lanes != 0xffffffffu) __builtin_trap();
  Slot slot = {};
  memcpy(&slot, &value, sizeof(T));
  slot = mh_shuffle(slot, operation, argument, site);
  memcpy(&value, &slot, sizeof(T));
  return value;
}
template <typename T> T __shfl_sync(unsigned int lanes, T value, int lane, SITE) {
  return handed(lanes, value, 12, lane % 32, site);
}
template <typename T> T __shfl_xor_sync(unsigned int lanes, T value, int mask, SITE) {
  return handed(lanes, value, 13, mask, site);
}
template <typename T> T __shfl_up_sync(unsigned int lanes, T value, unsigned int distance, SITE) {
  return handed(lanes, value, 14, distance, site);
}
template <typename T> T __shfl_down_sync(unsigned int lanes, T value, unsigned int distance, SITE) {
  return handed(lanes, value, 15, distance, site);
}
inline unsigned int __ballot_sync(unsigned int lanes, int vote, SITE) {
  if (lanes != 0xffffffffu) __builtin_trap();
  return mh_ballot(vote != 0, site);
}
inline int __any_sync(unsigned int lanes, int vote, SITE) { return __ballot_sync(lanes, vote, site) != 0; }
inline int __all_sync(unsigned int lanes, int vote, SITE) {
  return __ballot_sync(lanes, vote, site) == 0xffffffffu;
}

// Numbers.
#define LIKE(NAME, BUILTIN) inline float NAME(float x) { return BUILTIN(x); }
LIKE(exp, __builtin_expf)
LIKE(exp2, __builtin_exp2f)
LIKE(log, __builtin_logf)
LIKE(log2, __builtin_log2f)
LIKE(sqrt, __builtin_sqrtf)
LIKE(fabs, __builtin_fabsf)
LIKE(abs, __builtin_fabsf)
LIKE(floor, __builtin_floorf)
LIKE(ceil, __builtin_ceilf)
LIKE(rint, __builtin_rintf)
#undef LIKE
inline int abs(int x) { return x < 0 ? -x : x; }
inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float pow(float x, float y) { return __builtin_powf(x, y); }
inline float ldexp(float x, int n) { return __builtin_ldexpf(x, n); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fmax(float a, float b) { return __builtin_fmaxf(a, b); }
inline float fmin(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }

#define EXTREMES(A, B, R)                                                       \
  inline R max(A a, B b) { return (R)a < (R)b ? (R)b : (R)a; }                  \
  inline R min(A a, B b) { return (R)b < (R)a ? (R)b : (R)a; }
EXTREMES(int, int, int)
EXTREMES(unsigned int, unsigned int, unsigned int)
EXTREMES(int, unsigned int, unsigned int)
EXTREMES(unsigned int, int, unsigned int)
EXTREMES(long, long, long)
EXTREMES(unsigned long, unsigned long, unsigned long)
#undef EXTREMES

namespace cuda::std {

template <typename T, int N>
struct array {
  T values[N];
  const T& operator[](size_t i) const { return values[i]; }
};

template <typename T> struct numeric_limits;
template <> struct numeric_limits<float> {
  static constexpr float infinity() { return __builtin_inff(); }
  static constexpr float quiet_NaN() { return __builtin_nanf(""); }
};

}  // namespace cuda::std

namespace cooperative_groups {}
namespace mlx::core::cu {
using Shape = cuda::std::array<int32_t, 10>;
using Strides = cuda::std::array<int64_t, 10>;
}  // namespace mlx::core::cu
