// Metal's math functions. float goes to the C library, half and bfloat are computed in float and
// rounded, vectors element by element. `precise` and `fast` are the same here.
#pragma once

extern "C" {
float expf(float); float exp2f(float); float exp10f(float);
float logf(float); float log2f(float); float log10f(float); float log1pf(float);
float sinf(float); float cosf(float); float tanf(float);
float asinf(float); float acosf(float); float atanf(float); float atan2f(float, float);
float sinhf(float); float coshf(float); float tanhf(float);
float asinhf(float); float acoshf(float); float atanhf(float);
float powf(float, float); float fmodf(float, float); float hypotf(float, float);
float ldexpf(float, int); float frexpf(float, __private int *); float nextafterf(float, float);
}

// A function of one, two or three values for float, half and the vectors of both, and what it gives
// for bfloat: bfloat where MLX's header has it, else float, to which Metal converts the arguments.
#define MH_VECTOR template <typename T, int N> MH_FN enable_if_t<!is_same_v<T, bfloat>, vec<T, N>>
#define MH_OF_1(NAME, EXPRESSION, BFLOAT)                                                   \
  MH_FN float NAME(float x) { return EXPRESSION; }                                          \
  MH_FN half NAME(half h) { float x = h; return static_cast<half>(EXPRESSION); }            \
  MH_FN BFLOAT NAME(bfloat h) { float x = h; return static_cast<BFLOAT>(EXPRESSION); }      \
  MH_VECTOR NAME(vec<T, N> v) {                                                             \
    vec<T, N> r = v;                                                                        \
    for (int i = 0; i < N; i++) r[i] = NAME((T)v[i]);                                       \
    return r;                                                                               \
  }
#define MH_OF_2(NAME, EXPRESSION, BFLOAT)                                                   \
  MH_FN float NAME(float x, float y) { return EXPRESSION; }                                 \
  MH_FN half NAME(half a, half b) { float x = a, y = b; return static_cast<half>(EXPRESSION); }\
  MH_FN BFLOAT NAME(bfloat a, bfloat b) {                                                   \
    float x = a, y = b;                                                                     \
    return static_cast<BFLOAT>(EXPRESSION);                                                 \
  }                                                                                         \
  MH_VECTOR NAME(vec<T, N> a, vec<T, N> b) {                                                \
    vec<T, N> r = a;                                                                        \
    for (int i = 0; i < N; i++) r[i] = NAME((T)a[i], (T)b[i]);                              \
    return r;                                                                               \
  }
#define MH_OF_3(NAME, EXPRESSION, BFLOAT)                                                   \
  MH_FN float NAME(float x, float y, float z) { return EXPRESSION; }                        \
  MH_FN half NAME(half a, half b, half c) {                                                 \
    float x = a, y = b, z = c;                                                              \
    return static_cast<half>(EXPRESSION);                                                   \
  }                                                                                         \
  MH_FN BFLOAT NAME(bfloat a, bfloat b, bfloat c) {                                         \
    float x = a, y = b, z = c;                                                              \
    return static_cast<BFLOAT>(EXPRESSION);                                                 \
  }                                                                                         \
  MH_VECTOR NAME(vec<T, N> a, vec<T, N> b, vec<T, N> c) {                                   \
    vec<T, N> r = a;                                                                        \
    for (int i = 0; i < N; i++) r[i] = NAME((T)a[i], (T)b[i], (T)c[i]);                     \
    return r;                                                                               \
  }
#define MH_EACH_1(NAME, EXPRESSION) MH_OF_1(NAME, EXPRESSION, bfloat)
#define MH_EACH_2(NAME, EXPRESSION) MH_OF_2(NAME, EXPRESSION, bfloat)
#define MH_EACH_3(NAME, EXPRESSION) MH_OF_3(NAME, EXPRESSION, bfloat)
// The same for integer types.
#define MH_INTEGERS(X, NAME) \
  X(NAME, char) X(NAME, uchar) X(NAME, short) X(NAME, ushort) X(NAME, int) X(NAME, uint) \
  X(NAME, long) X(NAME, ulong)
#define MH_MIN(NAME, T) MH_FN constexpr T NAME(T x, T y) { return y < x ? y : x; }
#define MH_MAX(NAME, T) MH_FN constexpr T NAME(T x, T y) { return x < y ? y : x; }
#define MH_CLAMP(NAME, T) \
  MH_FN constexpr T NAME(T x, T low, T high) { return x < low ? low : high < x ? high : x; }
#define MH_ABS(NAME, T) MH_FN constexpr T NAME(T x) { return x < 0 ? -x : x; }
#define MH_SAME(NAME, T) MH_FN constexpr T NAME(T x) { return x; }

namespace metal {

MH_INTEGERS(MH_MIN, min)
MH_INTEGERS(MH_MAX, max)
MH_INTEGERS(MH_CLAMP, clamp)
MH_ABS(abs, char) MH_ABS(abs, short) MH_ABS(abs, int) MH_ABS(abs, long)
MH_SAME(abs, uchar) MH_SAME(abs, ushort) MH_SAME(abs, uint) MH_SAME(abs, ulong)

#define MH_MATH                                                                             \
  MH_EACH_1(exp, expf(x))                                                                   \
  MH_EACH_1(exp2, exp2f(x))                                                                 \
  MH_EACH_1(exp10, exp10f(x))                                                               \
  MH_EACH_1(log, logf(x))                                                                   \
  MH_EACH_1(log2, log2f(x))                                                                 \
  MH_EACH_1(log10, log10f(x))                                                               \
  MH_EACH_1(sin, sinf(x))                                                                   \
  MH_EACH_1(cos, cosf(x))                                                                   \
  MH_EACH_1(tan, tanf(x))                                                                   \
  MH_EACH_1(asin, asinf(x))                                                                 \
  MH_EACH_1(acos, acosf(x))                                                                 \
  MH_EACH_1(atan, atanf(x))                                                                 \
  MH_EACH_1(sinh, sinhf(x))                                                                 \
  MH_EACH_1(cosh, coshf(x))                                                                 \
  MH_EACH_1(tanh, tanhf(x))                                                                 \
  MH_EACH_1(asinh, asinhf(x))                                                               \
  MH_EACH_1(acosh, acoshf(x))                                                               \
  MH_EACH_1(atanh, atanhf(x))                                                               \
  MH_EACH_1(sqrt, __builtin_sqrtf(x))                                                       \
  MH_EACH_1(rsqrt, 1.0f / __builtin_sqrtf(x))                                               \
  MH_EACH_1(floor, __builtin_floorf(x))                                                     \
  MH_EACH_1(ceil, __builtin_ceilf(x))                                                       \
  MH_EACH_1(trunc, __builtin_truncf(x))                                                     \
  MH_EACH_1(round, __builtin_roundf(x))                                                     \
  MH_EACH_1(rint, __builtin_rintf(x))                                                       \
  MH_EACH_1(fabs, __builtin_fabsf(x))                                                       \
  MH_EACH_1(abs, __builtin_fabsf(x))                                                        \
  MH_EACH_1(fract, x - __builtin_floorf(x))                                                 \
  MH_EACH_2(atan2, atan2f(x, y))                                                            \
  MH_EACH_2(pow, powf(x, y))                                                                \
  MH_EACH_2(powr, powf(x, y))                                                               \
  MH_EACH_2(fmod, fmodf(x, y))                                                              \
  MH_EACH_2(fmin, __builtin_fminf(x, y))                                                    \
  MH_EACH_2(fmax, __builtin_fmaxf(x, y))                                                    \
  MH_EACH_2(min, __builtin_fminf(x, y))                                                     \
  MH_EACH_2(max, __builtin_fmaxf(x, y))                                                     \
  MH_OF_3(clamp, __builtin_fminf(__builtin_fmaxf(x, y), z), float)

MH_MATH
namespace precise { MH_MATH }
namespace fast { MH_MATH }

MH_OF_1(sign, (x > 0 ? 1.0f : x < 0 ? -1.0f : x != x ? 0.0f : x), float)
MH_OF_1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f), float)
MH_EACH_1(sinpi, sinf(x * M_PI_F))
MH_EACH_1(cospi, cosf(x * M_PI_F))
MH_OF_2(copysign, __builtin_copysignf(x, y), float)
MH_EACH_2(fdim, x > y ? x - y : 0.0f)
MH_OF_2(step, y < x ? 0.0f : 1.0f, float)
MH_EACH_3(fma, __builtin_fmaf(x, y, z))
MH_OF_3(mix, x + (y - x) * z, float)

template <typename T, typename S, int N>
MH_FN enable_if_t<!is_same_v<T, bfloat>, vec<T, N>> mix(vec<T, N> a, vec<T, N> b, S t) {
  return a + (b - a) * (T)t;
}
MH_FN float nextafter(float x, float y) { return nextafterf(x, y); }
MH_FN float ldexp(float x, int e) { return ldexpf(x, e); }
MH_FN float frexp(float x, thread int &e) {
  int exponent = 0;
  float mantissa = frexpf(x, &exponent);
  e = exponent;
  return mantissa;
}
MH_FN float modf(float x, thread float &whole) {
  whole = __builtin_truncf(x);
  return __builtin_copysignf(x - whole, x);
}
MH_FN float sincos(float x, thread float &c) {
  c = cosf(x);
  return sinf(x);
}
MH_FN float smoothstep(float low, float high, float x) {
  float t = saturate((x - low) / (high - low));
  return t * t * (3.0f - 2.0f * t);
}

#define MH_TEST(NAME, EXPRESSION)                                                           \
  MH_FN bool NAME(float x) { return EXPRESSION; }                                           \
  MH_FN bool NAME(half h) { float x = h; return EXPRESSION; }                               \
  MH_FN bool NAME(bfloat h) { float x = h; return EXPRESSION; }
MH_TEST(isnan, x != x)
MH_TEST(isinf, __builtin_fabsf(x) == INFINITY)
MH_TEST(isfinite, __builtin_fabsf(x) < INFINITY)
MH_TEST(isnormal, __builtin_fabsf(x) >= FLT_MIN && __builtin_fabsf(x) < INFINITY)
MH_TEST(signbit, as_type<uint>(x) >> 31)

}  // namespace metal
