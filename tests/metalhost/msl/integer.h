// Integer and vector functions.
#pragma once

namespace metal {

template <typename T> inline constexpr constant int mh_bits = sizeof(T) * 8;
template <typename T> using mh_unsigned = __make_unsigned(T);

template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> popcount(T x) {
  return __builtin_popcountl((ulong)(mh_unsigned<T>)x);
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> clz(T x) {
  return x ? __builtin_clzl((ulong)(mh_unsigned<T>)x) - (64 - mh_bits<T>) : mh_bits<T>;
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> ctz(T x) {
  return x ? __builtin_ctzl((ulong)(mh_unsigned<T>)x) : mh_bits<T>;
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> reverse_bits(T x) {
  mh_unsigned<T> r = 0;
  for (int i = 0; i < mh_bits<T>; i++) r |= ((mh_unsigned<T>)x >> i & 1) << (mh_bits<T> - 1 - i);
  return (T)r;
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> rotate(T x, T by) {
  uint n = (uint)by & (mh_bits<T> - 1);
  mh_unsigned<T> u = x;
  return n ? (T)(u << n | u >> (mh_bits<T> - n)) : x;
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, T> extract_bits(T x, uint at, uint bits) {
  if (!bits) return 0;
  mh_unsigned<T> u = (mh_unsigned<T>)x << (mh_bits<T> - bits - at);
  return (T)u >> (mh_bits<T> - bits);
}
template <typename T>
MH_FN enable_if_t<is_integral_v<T>, T> insert_bits(T x, T in, uint at, uint bits) {
  mh_unsigned<T> mask = bits >= mh_bits<T> ? ~(mh_unsigned<T>)0
                                           : (((mh_unsigned<T>)1 << bits) - 1) << at;
  return (T)(((mh_unsigned<T>)x & ~mask) | (((mh_unsigned<T>)in << at) & mask));
}
template <typename T> MH_FN enable_if_t<is_integral_v<T>, mh_unsigned<T>> absdiff(T x, T y) {
  return x < y ? (mh_unsigned<T>)y - (mh_unsigned<T>)x : (mh_unsigned<T>)x - (mh_unsigned<T>)y;
}
MH_FN int mulhi(int x, int y) { return (int)((long)x * y >> 32); }
MH_FN uint mulhi(uint x, uint y) { return (uint)((ulong)x * y >> 32); }
MH_FN ulong mulhi(ulong x, ulong y) { return (ulong)((unsigned __int128)x * y >> 64); }
MH_FN int mul24(int x, int y) { return x * y; }
MH_FN uint mul24(uint x, uint y) { return x * y; }
MH_FN int mad24(int x, int y, int z) { return x * y + z; }
MH_FN uint mad24(uint x, uint y, uint z) { return x * y + z; }


MH_FN float select(float a, float b, bool c) { return c ? b : a; }
template <typename T> MH_FN enable_if_t<!mh_is_vector<T>, T> select(T a, T b, bool c) {
  return c ? b : a;
}
template <typename T, typename C, int N> MH_FN vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<C, N> c) {
  for (int i = 0; i < N; i++) a[i] = c[i] ? b[i] : a[i];
  return a;
}
MH_FN bool all(bool x) { return x; }
MH_FN bool any(bool x) { return x; }
template <typename T, int N> MH_FN bool all(vec<T, N> v) {
  bool r = true;
  for (int i = 0; i < N; i++) r = r && v[i];
  return r;
}
template <typename T, int N> MH_FN bool any(vec<T, N> v) {
  bool r = false;
  for (int i = 0; i < N; i++) r = r || v[i];
  return r;
}
template <typename T, int N> MH_FN T dot(vec<T, N> a, vec<T, N> b) {
  T r = a[0] * b[0];
  for (int i = 1; i < N; i++) r += a[i] * b[i];
  return r;
}
template <typename T, int N> MH_FN T length_squared(vec<T, N> v) { return dot(v, v); }
template <typename T, int N> MH_FN T length(vec<T, N> v) { return sqrt(dot(v, v)); }
template <typename T, int N> MH_FN T distance(vec<T, N> a, vec<T, N> b) { return length(a - b); }
template <typename T, int N> MH_FN vec<T, N> normalize(vec<T, N> v) { return v * rsqrt(dot(v, v)); }
template <typename T> MH_FN vec<T, 3> cross(vec<T, 3> a, vec<T, 3> b) {
  return a.yzx * b.zxy - a.zxy * b.yzx;
}

}  // namespace metal
