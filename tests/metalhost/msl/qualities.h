// Rivals of the functions that Metal has in two qualities: among them a call that does not say
// precise:: or fast:: is ambiguous. The program declares them where that is asked for.
#pragma once

#define MH_RIVAL_VECTOR \
  template <typename T, int N> metal::enable_if_t<metal::is_same_v<T, float>, metal::vec<T, N>>
#define MH_RIVAL_1(NAME)   \
  float NAME(float);       \
  MH_RIVAL_VECTOR NAME(metal::vec<T, N>);
#define MH_RIVAL_2(NAME)   \
  float NAME(float, float); \
  MH_RIVAL_VECTOR NAME(metal::vec<T, N>, metal::vec<T, N>);
#define MH_RIVAL_3(NAME)          \
  float NAME(float, float, float); \
  MH_RIVAL_VECTOR NAME(metal::vec<T, N>, metal::vec<T, N>, metal::vec<T, N>);

#define MH_RIVALS                                                                           \
  MH_RIVAL_1(acos) MH_RIVAL_1(acosh) MH_RIVAL_1(asin) MH_RIVAL_1(asinh) MH_RIVAL_1(atan)    \
  MH_RIVAL_1(atanh) MH_RIVAL_1(cos) MH_RIVAL_1(cosh) MH_RIVAL_1(cospi) MH_RIVAL_1(exp)      \
  MH_RIVAL_1(exp10) MH_RIVAL_1(exp2) MH_RIVAL_1(log) MH_RIVAL_1(log10) MH_RIVAL_1(log2)     \
  MH_RIVAL_1(rsqrt) MH_RIVAL_1(saturate) MH_RIVAL_1(sin) MH_RIVAL_1(sinh) MH_RIVAL_1(sinpi) \
  MH_RIVAL_1(sqrt) MH_RIVAL_1(tan) MH_RIVAL_1(tanh)                                         \
  MH_RIVAL_2(atan2) MH_RIVAL_2(fdim) MH_RIVAL_2(fmax) MH_RIVAL_2(fmin) MH_RIVAL_2(fmod)     \
  MH_RIVAL_2(max) MH_RIVAL_2(min) MH_RIVAL_2(pow) MH_RIVAL_2(powr)                          \
  MH_RIVAL_3(clamp)
