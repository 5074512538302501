// Relaxed 32-bit atomics on device and threadgroup memory; Metal has no others for kernels.
#pragma once

extern "C" {
uint mh_atomic(ulong word, uint operation, uint operand, uint type);
uint mh_atomic_compare_exchange(ulong word, uint expected, uint desired);
}

namespace metal {

enum memory_order { memory_order_relaxed };

template <typename T> struct atomic {
  static_assert(__is_same(T, int) || __is_same(T, uint) || __is_same(T, float) ||
                __is_same(T, bool), "atomics hold int, uint, bool or float");
  uint mh_word;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <typename T> struct mh_atomic_type { static constexpr constant uint number = 1; };
template <> struct mh_atomic_type<int> { static constexpr constant uint number = 0; };
template <> struct mh_atomic_type<float> { static constexpr constant uint number = 2; };

template <typename T> MH_FN uint mh_atomic_bits(T x) {
  if constexpr (sizeof(T) == 1) return x;
  else return as_type<uint>(x);
}
template <typename T> MH_FN T mh_atomic_value(uint x) {
  if constexpr (sizeof(T) == 1) return x != 0;
  else return as_type<T>(x);
}
template <typename T> struct mh_same { typedef T type; };

#define MH_ATOMIC(NAME, NUMBER, SPACE)                                                          \
  template <typename T> MH_FN T NAME(volatile SPACE atomic<T> *word, typename mh_same<T>::type x, \
                                     memory_order) {                                            \
    return mh_atomic_value<T>(mh_atomic((ulong)word, NUMBER, mh_atomic_bits((T)x),              \
                                        mh_atomic_type<T>::number));                            \
  }
#define MH_ATOMICS(SPACE)                                                                       \
  MH_ATOMIC(atomic_exchange_explicit, 2, SPACE)                                                 \
  MH_ATOMIC(atomic_fetch_add_explicit, 3, SPACE)                                                \
  MH_ATOMIC(atomic_fetch_sub_explicit, 4, SPACE)                                                \
  MH_ATOMIC(atomic_fetch_min_explicit, 5, SPACE)                                                \
  MH_ATOMIC(atomic_fetch_max_explicit, 6, SPACE)                                                \
  MH_ATOMIC(atomic_fetch_and_explicit, 7, SPACE)                                                \
  MH_ATOMIC(atomic_fetch_or_explicit, 8, SPACE)                                                 \
  MH_ATOMIC(atomic_fetch_xor_explicit, 9, SPACE)                                                \
  template <typename T> MH_FN T atomic_load_explicit(const volatile SPACE atomic<T> *word,      \
                                                     memory_order) {                            \
    return mh_atomic_value<T>(mh_atomic((ulong)word, 0, 0, 1));                                 \
  }                                                                                             \
  template <typename T>                                                                         \
  MH_FN void atomic_store_explicit(volatile SPACE atomic<T> *word, typename mh_same<T>::type x, \
                                   memory_order) {                                              \
    mh_atomic((ulong)word, 1, mh_atomic_bits((T)x), 1);                                         \
  }                                                                                             \
  template <typename T>                                                                         \
  MH_FN bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<T> *word,              \
                                                   thread T *expected,                          \
                                                   typename mh_same<T>::type desired,           \
                                                   memory_order, memory_order) {                \
    uint old = mh_atomic_compare_exchange((ulong)word, mh_atomic_bits(*expected),               \
                                          mh_atomic_bits((T)desired));                          \
    bool equal = old == mh_atomic_bits(*expected);                                              \
    *expected = mh_atomic_value<T>(old);                                                        \
    return equal;                                                                               \
  }
MH_ATOMICS(device)
MH_ATOMICS(threadgroup)

}  // namespace metal
