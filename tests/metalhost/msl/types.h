// Metal's address spaces and types on clang's C++ for OpenCL. The address spaces are real: a pointer
// of one cannot become a pointer of another.
#pragma once

#define device __global
#define threadgroup __local
#define constant __constant
#define thread __private
#define METAL_FUNC inline __attribute__((always_inline))
#define MLX_MTL_CONST static constant constexpr const
#define MLX_MTL_LOOP_UNROLL _Pragma("unroll")
#define MH_FN inline __attribute__((always_inline, nodebug))
#define MH_SITE uint mh_site = __builtin_LINE()

// Words that OpenCL reserves and Metal does not.
#define local mh_word_local
#define global mh_word_global
#define generic mh_word_generic
#define pipe mh_word_pipe
#define atomic_int mh_atomic_int
#define atomic_uint mh_atomic_uint
#define atomic_float mh_atomic_float
#define atomic_long mh_atomic_long
#define atomic_ulong mh_atomic_ulong
#define atomic_flag mh_atomic_flag

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef __bf16 bfloat;
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half float16_t;
typedef bfloat bfloat16_t;

#define MH_VECTORS(T)                                     \
  typedef T T##2 __attribute__((ext_vector_type(2)));     \
  typedef T T##3 __attribute__((ext_vector_type(3)));     \
  typedef T T##4 __attribute__((ext_vector_type(4)));
MH_VECTORS(char)
MH_VECTORS(uchar)
MH_VECTORS(short)
MH_VECTORS(ushort)
MH_VECTORS(int)
MH_VECTORS(uint)
MH_VECTORS(long)
MH_VECTORS(ulong)
MH_VECTORS(half)
MH_VECTORS(bfloat)
MH_VECTORS(float)

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF INFINITY
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.1920928955e-07f
#define HALF_MAX 65504.0h
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define CHAR_MAX 127
#define UCHAR_MAX 255
#define LONG_MAX 0x7fffffffffffffffl
#define ULONG_MAX 0xfffffffffffffffful
#define M_PI_F 3.14159265358979f
#define M_PI_2_F 1.57079632679490f
#define M_1_PI_F 0.318309886183791f
#define M_2_PI_F 0.636619772367581f
#define M_E_F 2.71828182845905f
#define M_LN2_F 0.693147180559945f
#define M_LN10_F 2.30258509299405f
#define M_LOG2E_F 1.44269504088896f
#define M_LOG10E_F 0.434294481903252f
#define M_SQRT2_F 1.41421356237310f
#define M_SQRT1_2_F 0.707106781186548f

extern "C" uint mh_attribute(uint which, uint dimension);
extern "C" ulong mh_argument(uint number);
