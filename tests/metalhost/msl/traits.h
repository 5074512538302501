// The part of Metal's type traits and numeric limits that kernels use.
#pragma once

namespace metal {

template <typename T, T V> struct integral_constant { static constexpr constant T value = V; };
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;

template <typename A, typename B> inline constexpr constant bool is_same_v = __is_same(A, B);
template <typename A, typename B> struct is_same : integral_constant<bool, __is_same(A, B)> {};

template <bool C, typename A, typename B> struct conditional { typedef A type; };
template <typename A, typename B> struct conditional<false, A, B> { typedef B type; };
template <bool C, typename A, typename B> using conditional_t = typename conditional<C, A, B>::type;
template <bool C, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> { typedef T type; };
template <bool C, typename T = void> using enable_if_t = typename enable_if<C, T>::type;

template <typename T> using remove_cv_t = __remove_cv(T);
template <typename T> using remove_const_t = __remove_const(T);
template <typename T> using remove_reference_t = __remove_reference_t(T);
template <typename T> using remove_pointer_t = __remove_pointer(T);
template <typename T> using decay_t = __decay(T);

template <typename T> inline constexpr constant bool is_floating_point_v =
    __is_same(__remove_cv(T), float) || __is_same(__remove_cv(T), half) ||
    __is_same(__remove_cv(T), bfloat);
template <typename T> inline constexpr constant bool is_integral_v = __is_integral(T);
template <typename T> inline constexpr constant bool is_signed_v =
    is_floating_point_v<T> || __is_signed(T);
template <typename T> inline constexpr constant bool is_unsigned_v = __is_unsigned(T);
template <typename T> inline constexpr constant bool is_arithmetic_v =
    is_floating_point_v<T> || is_integral_v<T>;
template <typename T> struct is_floating_point : integral_constant<bool, is_floating_point_v<T>> {};
template <typename T> struct is_integral : integral_constant<bool, is_integral_v<T>> {};
template <typename T> struct is_signed : integral_constant<bool, is_signed_v<T>> {};
template <typename T> struct is_unsigned : integral_constant<bool, is_unsigned_v<T>> {};
template <typename T> struct is_arithmetic : integral_constant<bool, is_arithmetic_v<T>> {};

// Vectors: element type and length of any type.
template <typename T> struct mh_shape { typedef T element; static constexpr constant int length = 1; };
template <typename T, int N> struct mh_shape<T __attribute__((ext_vector_type(N)))> {
  typedef T element;
  static constexpr constant int length = N;
};
template <typename T, int N> using vec = T __attribute__((ext_vector_type(N)));
template <typename T> inline constexpr constant bool mh_is_vector = mh_shape<T>::length > 1;

template <typename T> struct numeric_limits {
  static constexpr constant T mh_top = is_unsigned_v<T> ? T(~0ul) : T((1ul << (sizeof(T) * 8 - 1)) - 1);
  static constexpr T max() { return mh_top; }
  static constexpr T min() { return T(is_unsigned_v<T> ? 0 : -mh_top - 1); }
  static constexpr T lowest() { return min(); }
};
#define MH_LIMITS(T, MAX, MIN, EPSILON)                                                     \
  template <> struct numeric_limits<T> {                                                    \
    static constexpr T max() { return T(MAX); }                                             \
    static constexpr T min() { return T(MIN); }                                             \
    static constexpr T lowest() { return T(-MAX); }                                         \
    static constexpr T epsilon() { return T(EPSILON); }                                     \
    static constexpr T infinity() { return T(INFINITY); }                                   \
    static constexpr T quiet_NaN() { return T(NAN); }                                       \
  };
MH_LIMITS(float, 3.402823466e+38f, 1.175494351e-38f, 1.1920928955e-07f)
MH_LIMITS(half, 65504.0f, 6.103515625e-05f, 9.765625e-04f)
MH_LIMITS(bfloat, 3.3895314e+38f, 1.175494351e-38f, 7.8125e-03f)

}  // namespace metal
