// What MLX puts before every kernel at launch, as far as kernels use it.
#pragma once

namespace metal {

MH_EACH_1(log1p, log1pf(x))
MH_EACH_1(expm1, expm1f(x))
MH_EACH_1(erf, erff(x))

}  // namespace metal
using namespace metal;

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
