// What MLX puts before every kernel at launch, as far as kernels use it.
#pragma once

using namespace metal;

// Metal has neither; these are global, and MLX has no erf and no expm1 for kernels.
MH_FN float log1p(float x) { return log1pf(x); }
MH_FN bfloat log1p(bfloat x) { return static_cast<bfloat>(log1pf(x)); }
MH_FN float log1p(half x) { return log1pf(x); }
MH_FN float hypot(float x, float y) { return hypotf(x, y); }

// Lanes exchange 64-bit integers and bools only by these, which are global.
#define MH_WIDE_MOVE(NAME, NUMBER, T) \
  MH_FN T NAME(T value, ushort lane, MH_SITE) { return mh_move(value, NUMBER, lane, mh_site); }
#define MH_WIDE_MOVES(T)                                                       \
  MH_WIDE_MOVE(simd_shuffle, 12, T)                                            \
  MH_WIDE_MOVE(simd_shuffle_up, 14, T)                                         \
  MH_WIDE_MOVE(simd_shuffle_down, 15, T)                                       \
  MH_FN T simd_shuffle_and_fill_up(T value, T filling, ushort delta, MH_SITE) { \
    return mh_filled_up(value, filling, delta, 32, mh_site);                   \
  }
MH_WIDE_MOVES(long)
MH_WIDE_MOVES(ulong)
MH_WIDE_MOVES(bool)

template <typename U> struct Limits {
  static constexpr constant U max = numeric_limits<U>::max();
  static constexpr constant U min = numeric_limits<U>::lowest();
  static constexpr constant U finite_max = numeric_limits<U>::max();
  static constexpr constant U finite_min = numeric_limits<U>::lowest();
};
#define MH_FLOAT_LIMITS(T)                                                          \
  template <> struct Limits<T> {                                                    \
    static constexpr constant T max = static_cast<T>(INFINITY);                     \
    static constexpr constant T min = static_cast<T>(-INFINITY);                    \
    static constexpr constant T finite_max = numeric_limits<T>::max();              \
    static constexpr constant T finite_min = numeric_limits<T>::lowest();           \
  };
MH_FLOAT_LIMITS(float)
MH_FLOAT_LIMITS(half)
MH_FLOAT_LIMITS(bfloat)

inline size_t ceildiv(size_t n, size_t m) { return (n + m - 1) / m; }

template <typename IdxT = int64_t>
inline IdxT elem_to_loc(IdxT elem, constant const int *shape, constant const int64_t *strides,
                        int ndim) {
  IdxT loc = 0;
  for (int i = ndim - 1; i >= 0 && elem > 0; --i) {
    loc += (elem % shape[i]) * IdxT(strides[i]);
    elem /= shape[i];
  }
  return loc;
}
template <typename IdxT = int64_t>
inline IdxT elem_to_loc(uint3 elem, constant const int *shape, constant const int64_t *strides,
                        int ndim) {
  IdxT loc = elem.x * IdxT(strides[ndim - 1]) + elem.y * IdxT(strides[ndim - 2]);
  for (int d = ndim - 3; d >= 0; --d) {
    loc += (elem.z % shape[d]) * IdxT(strides[d]);
    elem.z /= shape[d];
  }
  return loc;
}
