// The names that MLX's generated text takes from its own headers and CUDA's library.
#pragma once

namespace cuda {
namespace std {
template <typename T, int N> struct array {
  T mh_values[N];
  const T& operator[](size_t i) const { return mh_values[i]; }
};
template <typename T> struct numeric_limits;
#define MH_LIMITS(T, MAX, LOWEST)                                                               \
  template <> struct numeric_limits<T> {                                                        \
    static constexpr T max() { return MAX; }                                                    \
    static constexpr T lowest() { return LOWEST; }                                              \
    static constexpr T infinity() { return T(__builtin_inff()); }                               \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }                            \
  };
MH_LIMITS(float, 3.402823466e+38f, -3.402823466e+38f)
MH_LIMITS(half, half(65504.0f), half(-65504.0f))
template <> struct numeric_limits<int> {
  static constexpr int max() { return 0x7fffffff; }
  static constexpr int lowest() { return -0x7fffffff - 1; }
};
template <> struct numeric_limits<unsigned int> {
  static constexpr unsigned int max() { return 0xffffffffu; }
  static constexpr unsigned int lowest() { return 0; }
};
}  // namespace std
}  // namespace cuda
#define inf cuda::std::numeric_limits<float>::infinity()

namespace cooperative_groups {}
namespace mlx {
namespace core {
namespace cu {
using Shape = ::cuda::std::array<int32_t, 10>;
using Strides = ::cuda::std::array<int64_t, 10>;
}  // namespace cu
}  // namespace core
}  // namespace mlx
