// Barriers, warp functions and atomics. A mask must name all lanes of the warp: warp functions of a
// part of the lanes are refused.
#pragma once

struct mh_slot { unsigned long lo, hi; };
extern "C" {
void mh_barrier(unsigned int flags, unsigned int site);
void mh_warp_barrier(unsigned int mask, unsigned int site);
void mh_warp_mask(unsigned int mask, unsigned int site);
unsigned long mh_reduce_i(unsigned long value, unsigned int operation, unsigned int is_signed,
                          unsigned int site);
unsigned long mh_ballot(unsigned int vote, unsigned int site);
mh_slot mh_shuffle(mh_slot value, unsigned int operation, long argument, unsigned int site);
unsigned int mh_atomic(unsigned int* word, unsigned int operation, unsigned int operand,
                       unsigned int type);
unsigned int mh_atomic_compare_exchange(unsigned int* word, unsigned int expected,
                                        unsigned int desired);
}

MH_FN void __syncthreads(MH_SITE) { mh_barrier(3, mh_site); }
MH_FN void __syncwarp(unsigned int mask = 0xffffffffu, MH_SITE) { mh_warp_barrier(mask, mh_site); }

template <typename T>
MH_FN T mh_move(unsigned int mask, T value, int lane, unsigned int site) {
  static_assert(sizeof(T) <= 8, "a lane hands over at most 8 bytes");
  mh_warp_mask(mask, site);
  mh_slot slot = {};
  memcpy(&slot.lo, &value, sizeof(T));
  slot = mh_shuffle(slot, 12, lane, site);
  memcpy(&value, &slot.lo, sizeof(T));
  return value;
}
MH_FN int mh_lane() { return int(mh_attribute(8, 0)); }

template <typename T> MH_FN T __shfl_sync(unsigned int mask, T value, int lane, int width = 32, MH_SITE) {
  return mh_move(mask, value, (mh_lane() & -width) | (lane & (width - 1)), mh_site);
}
template <typename T> MH_FN T __shfl_xor_sync(unsigned int mask, T value, int x, int width = 32, MH_SITE) {
  int to = mh_lane() ^ x;
  return mh_move(mask, value, to < (mh_lane() & -width) + width ? to : mh_lane(), mh_site);
}
template <typename T>
MH_FN T __shfl_up_sync(unsigned int mask, T value, unsigned int by, int width = 32, MH_SITE) {
  int to = mh_lane() - int(by);
  return mh_move(mask, value, to >= (mh_lane() & -width) ? to : mh_lane(), mh_site);
}
template <typename T>
MH_FN T __shfl_down_sync(unsigned int mask, T value, unsigned int by, int width = 32, MH_SITE) {
  int to = mh_lane() + int(by);
  return mh_move(mask, value, to < (mh_lane() & -width) + width ? to : mh_lane(), mh_site);
}
MH_FN unsigned int __ballot_sync(unsigned int mask, int vote, MH_SITE) {
  mh_warp_mask(mask, mh_site);
  return (unsigned int)mh_ballot(vote != 0, mh_site);
}
MH_FN int __any_sync(unsigned int mask, int vote, MH_SITE) {
  mh_warp_mask(mask, mh_site);
  return mh_ballot(vote != 0, mh_site) != 0;
}
MH_FN int __all_sync(unsigned int mask, int vote, MH_SITE) {
  mh_warp_mask(mask, mh_site);
  return mh_ballot(vote == 0, mh_site) == 0;
}
#define MH_REDUCE(NAME, NUMBER)                                                                 \
  template <typename T> MH_FN T NAME(unsigned int mask, T value, MH_SITE) {                     \
    static_assert(sizeof(T) == 4 && !__is_same(T, float), "int or unsigned");                   \
    mh_warp_mask(mask, mh_site);                                                                \
    return T(mh_reduce_i((unsigned long)value, NUMBER, __is_same(T, int), mh_site));            \
  }
MH_REDUCE(__reduce_add_sync, 1)
MH_REDUCE(__reduce_min_sync, 3)
MH_REDUCE(__reduce_max_sync, 4)
MH_REDUCE(__reduce_and_sync, 5)
MH_REDUCE(__reduce_or_sync, 6)
MH_REDUCE(__reduce_xor_sync, 7)

#define MH_ATOMIC(NAME, NUMBER, T, TYPE)                                                        \
  MH_FN T NAME(T* word, T x) {                                                                  \
    return __builtin_bit_cast(                                                                  \
        T, mh_atomic((unsigned int*)word, NUMBER, __builtin_bit_cast(unsigned int, x), TYPE));  \
  }
#define MH_ATOMIC_INTEGERS(NAME, NUMBER) \
  MH_ATOMIC(NAME, NUMBER, int, 0) MH_ATOMIC(NAME, NUMBER, unsigned int, 1)
MH_ATOMIC_INTEGERS(atomicExch, 2)
MH_ATOMIC_INTEGERS(atomicAdd, 3)
MH_ATOMIC_INTEGERS(atomicSub, 4)
MH_ATOMIC_INTEGERS(atomicMin, 5)
MH_ATOMIC_INTEGERS(atomicMax, 6)
MH_ATOMIC_INTEGERS(atomicAnd, 7)
MH_ATOMIC_INTEGERS(atomicOr, 8)
MH_ATOMIC_INTEGERS(atomicXor, 9)
MH_ATOMIC(atomicExch, 2, float, 2)
MH_ATOMIC(atomicAdd, 3, float, 2)
template <typename T> MH_FN T atomicCAS(T* word, T expected, T desired) {
  static_assert(sizeof(T) == 4, "atomics hold 4 bytes");
  return __builtin_bit_cast(
      T, mh_atomic_compare_exchange((unsigned int*)word, __builtin_bit_cast(unsigned int, expected),
                                    __builtin_bit_cast(unsigned int, desired)));
}
