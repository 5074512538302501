// Math of CUDA texts, in float.
#pragma once

#define MH_ONE(NAME)                                                                            \
  MH_FN float NAME##f(float x) { return __builtin_##NAME##f(x); }                               \
  MH_FN float NAME(float x) { return __builtin_##NAME##f(x); }
MH_ONE(exp)
MH_ONE(exp2)
MH_ONE(expm1)
MH_ONE(log)
MH_ONE(log2)
MH_ONE(log10)
MH_ONE(log1p)
MH_ONE(sin)
MH_ONE(cos)
MH_ONE(tan)
MH_ONE(tanh)
MH_ONE(erf)
MH_ONE(sqrt)
MH_ONE(fabs)
MH_ONE(floor)
MH_ONE(ceil)
MH_ONE(trunc)
MH_ONE(round)
MH_ONE(rint)
#define MH_TWO(NAME)                                                                            \
  MH_FN float NAME##f(float x, float y) { return __builtin_##NAME##f(x, y); }                   \
  MH_FN float NAME(float x, float y) { return __builtin_##NAME##f(x, y); }
MH_TWO(pow)
MH_TWO(fmod)
MH_TWO(fmin)
MH_TWO(fmax)
MH_TWO(atan2)
MH_TWO(copysign)
MH_FN float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
MH_FN float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
MH_FN float ldexpf(float x, int e) { return __builtin_ldexpf(x, e); }
MH_FN float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }
MH_FN float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
MH_FN float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
MH_FN float __expf(float x) { return __builtin_expf(x); }
MH_FN float __logf(float x) { return __builtin_logf(x); }
MH_FN float __fdividef(float x, float y) { return x / y; }
MH_FN float __saturatef(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
MH_FN bool isnan(float x) { return x != x; }
MH_FN bool isinf(float x) { return __builtin_fabsf(x) == INFINITY; }
MH_FN bool isfinite(float x) { return __builtin_fabsf(x) < INFINITY; }
MH_FN float abs(float x) { return __builtin_fabsf(x); }
MH_FN int abs(int x) { return x < 0 ? -x : x; }
MH_FN float min(float x, float y) { return __builtin_fminf(x, y); }
MH_FN float max(float x, float y) { return __builtin_fmaxf(x, y); }
// As CUDA does, a mixed pair is compared unsigned.
#define MH_EXTREMES(A, B, R)                                                                    \
  MH_FN R min(A x, B y) { return R(y) < R(x) ? R(y) : R(x); }                                   \
  MH_FN R max(A x, B y) { return R(x) < R(y) ? R(y) : R(x); }
MH_EXTREMES(int, int, int)
MH_EXTREMES(uint, uint, uint)
MH_EXTREMES(int, uint, uint)
MH_EXTREMES(uint, int, uint)
MH_EXTREMES(long, long, long)
MH_EXTREMES(ulong, ulong, ulong)
MH_FN int __popc(unsigned int x) { return __builtin_popcount(x); }
MH_FN int __clz(int x) { return x ? __builtin_clz((unsigned int)x) : 32; }
MH_FN int __ffs(int x) { return __builtin_ffs(x); }
MH_FN unsigned int __brev(unsigned int x) { return __builtin_bitreverse32(x); }
MH_FN unsigned int __umulhi(unsigned int x, unsigned int y) {
  return (unsigned int)((unsigned long)x * y >> 32);
}
