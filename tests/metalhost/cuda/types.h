// CUDA's words for functions and memory, its types and conversions.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __grid_constant__
#define __shared__ static __attribute__((section("mhshared")))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define MH_FN inline __attribute__((always_inline, nodebug))
#define MH_SITE unsigned int mh_site = __builtin_LINE()
#define memcpy __builtin_memcpy
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
using size_t = unsigned long;
using uintptr_t = unsigned long;
using ulong = unsigned long;
using uint = unsigned int;
using ushort = unsigned short;
using uchar = unsigned char;
using half = _Float16;
using __half = _Float16;
using __nv_bfloat16 = __bf16;

extern "C" unsigned int mh_attribute(unsigned int which, unsigned int dimension);
extern "C" unsigned long mh_argument(unsigned int number);

#define MH_VECTORS(T, NAME)                                                                     \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                            \
  struct NAME##3 { T x, y, z; };                                                                \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) NAME##4 { T x, y, z, w; };            \
  MH_FN NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                     \
  MH_FN NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                             \
  MH_FN NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MH_VECTORS(signed char, char)
MH_VECTORS(unsigned char, uchar)
MH_VECTORS(short, short)
MH_VECTORS(unsigned short, ushort)
MH_VECTORS(int, int)
MH_VECTORS(unsigned int, uint)
MH_VECTORS(long, longlong)
MH_VECTORS(unsigned long, ulonglong)
MH_VECTORS(float, float)

// Where a thread stands.
MH_FN uint3 mh_place(unsigned int which) {
  return {mh_attribute(which, 0), mh_attribute(which, 1), mh_attribute(which, 2)};
}
#define threadIdx mh_place(1)
#define blockIdx mh_place(2)
#define gridDim mh_place(3)
#define blockDim mh_place(5)
#define warpSize 32

MH_FN float __half2float(half x) { return x; }
MH_FN half __float2half(float x) { return half(x); }
MH_FN half __float2half_rn(float x) { return half(x); }
MH_FN float __bfloat162float(__nv_bfloat16 x) { return x; }
MH_FN __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
MH_FN __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
MH_FN int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
MH_FN unsigned int __float_as_uint(float x) { return __builtin_bit_cast(unsigned int, x); }
MH_FN float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
MH_FN float __uint_as_float(unsigned int x) { return __builtin_bit_cast(float, x); }
MH_FN int __float2int_rn(float x) { return int(__builtin_rintf(x)); }
MH_FN int __float2int_rd(float x) { return int(__builtin_floorf(x)); }
template <typename T> MH_FN T __ldg(const T* p) { return *p; }
