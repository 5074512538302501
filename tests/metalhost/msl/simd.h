// Barriers and the operations of a 32-lane simdgroup. The line of the call tells sites apart.
#pragma once

struct mh_slot { ulong lo, hi; };
extern "C" {
void mh_barrier(uint flags, uint site);
void mh_simdgroup_barrier(uint flags, uint site);
float mh_reduce_f(float value, uint operation, uint half_rounding, uint site);
ulong mh_reduce_i(ulong value, uint operation, uint is_signed, uint site);
ulong mh_ballot(uint vote, uint site);
uint mh_active(uint site);
mh_slot mh_shuffle(mh_slot value, uint operation, long argument, uint site);
}

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
MH_FN constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

MH_FN void threadgroup_barrier(mem_flags flags, MH_SITE) { mh_barrier(uint(flags), mh_site); }
MH_FN void simdgroup_barrier(mem_flags flags, MH_SITE) { mh_simdgroup_barrier(uint(flags), mh_site); }

// What lanes exchange: Metal has neither 64-bit integers there, nor bools, nor structs.
template <typename T> inline constexpr constant bool mh_travels =
    is_floating_point_v<T> || (is_integral_v<T> && sizeof(T) < 8 && !is_same_v<T, bool>);
template <typename T> inline constexpr constant bool mh_in_lanes =
    mh_travels<typename mh_shape<T>::element>;
template <typename T> inline constexpr constant bool mh_folds = mh_travels<T> && is_integral_v<T>;
#define MH_NOT_IN_LANES(NAME) \
  unavailable("Metal has no " #NAME " of 64-bit integers, bools or structs")

// Reductions and scans; bfloat is computed in float, as MLX does on Metal.
#define MH_FOLD(NAME, NUMBER)                                                                   \
  MH_FN float NAME(float x, MH_SITE) { return mh_reduce_f(x, NUMBER, 0, mh_site); }             \
  MH_FN half NAME(half x, MH_SITE) { return static_cast<half>(mh_reduce_f(x, NUMBER, 1, mh_site)); } \
  MH_FN bfloat NAME(bfloat x, MH_SITE) {                                                        \
    return static_cast<bfloat>(mh_reduce_f(x, NUMBER, 0, mh_site));                             \
  }                                                                                             \
  MH_FOLD_INTEGER(NAME, NUMBER)                                                                 \
  template <typename T, int N>                                                                  \
  MH_FN enable_if_t<mh_travels<T>, vec<T, N>> NAME(vec<T, N> v, MH_SITE) {                      \
    for (int i = 0; i < N; i++) v[i] = NAME((T)v[i], mh_site);                                  \
    return v;                                                                                   \
  }
#define MH_FOLD_INTEGER(NAME, NUMBER)                                                           \
  template <typename T> MH_FN enable_if_t<mh_folds<T>, T> NAME(T x, MH_SITE) {                  \
    return (T)mh_reduce_i((ulong)x, NUMBER, is_signed_v<T>, mh_site);                           \
  }                                                                                             \
  template <typename T> __attribute__((MH_NOT_IN_LANES(NAME)))                                  \
  enable_if_t<!mh_in_lanes<T>, T> NAME(T x, MH_SITE);
MH_FOLD(simd_sum, 1)
MH_FOLD(simd_product, 2)
MH_FOLD(simd_min, 3)
MH_FOLD(simd_max, 4)
MH_FOLD_INTEGER(simd_and, 5)
MH_FOLD_INTEGER(simd_or, 6)
MH_FOLD_INTEGER(simd_xor, 7)
MH_FOLD(simd_prefix_inclusive_sum, 8)
MH_FOLD(simd_prefix_exclusive_sum, 9)
MH_FOLD(simd_prefix_inclusive_product, 10)
MH_FOLD(simd_prefix_exclusive_product, 11)

template <typename T> MH_FN T mh_move(T value, uint operation, long argument, uint site) {
  static_assert(sizeof(T) <= 16, "a lane hands over at most 16 bytes");
  struct Bytes { uchar byte[16]; } bytes = {};
  __builtin_memcpy(&bytes, &value, sizeof(T));
  mh_slot moved = mh_shuffle(__builtin_bit_cast(mh_slot, bytes), operation, argument, site);
  __builtin_memcpy(&bytes, &moved, 16);
  __builtin_memcpy(&value, &bytes, sizeof(T));
  return value;
}
#define MH_MOVED(T) MH_FN enable_if_t<mh_in_lanes<T>, T>
#define MH_NOT_MOVED(NAME, ...)                                                                 \
  template <typename T> __attribute__((MH_NOT_IN_LANES(NAME)))                                  \
  enable_if_t<!mh_in_lanes<T>, T> NAME(T value, __VA_ARGS__);
#define MH_MOVE(NAME, NUMBER)                                                                   \
  template <typename T> MH_MOVED(T) NAME(T value, ushort lane, MH_SITE) {                       \
    return mh_move(value, NUMBER, lane, mh_site);                                               \
  }                                                                                             \
  MH_NOT_MOVED(NAME, ushort lane, MH_SITE)
MH_MOVE(simd_shuffle, 12)
MH_MOVE(simd_shuffle_xor, 13)
MH_MOVE(simd_shuffle_up, 14)
MH_MOVE(simd_shuffle_down, 15)
MH_MOVE(simd_shuffle_rotate_up, 16)
MH_MOVE(simd_shuffle_rotate_down, 17)
MH_MOVE(simd_broadcast, 18)
template <typename T> MH_MOVED(T) simd_broadcast_first(T value, MH_SITE) {
  return mh_move(value, 19, 0, mh_site);
}
MH_NOT_MOVED(simd_broadcast_first, MH_SITE)
template <typename T>
MH_FN T mh_filled_down(T value, T filling, ushort delta, ushort modulo, uint mh_site) {
  ushort lane = mh_attribute(8, 0), first = lane / modulo * modulo, to = lane % modulo + delta;
  T inside = mh_move(value, 12, to < modulo ? first + to : lane, mh_site);
  T outside = mh_move(filling, 12, first + to % modulo, mh_site);
  return to < modulo ? inside : outside;
}
template <typename T>
MH_FN T mh_filled_up(T value, T filling, ushort delta, ushort modulo, uint mh_site) {
  ushort lane = mh_attribute(8, 0), first = lane / modulo * modulo, at = lane % modulo;
  T inside = mh_move(value, 12, at >= delta ? lane - delta : lane, mh_site);
  T outside = mh_move(filling, 12, first + (at + modulo - delta % modulo) % modulo, mh_site);
  return at >= delta ? inside : outside;
}
#define MH_FILL(NAME, MOVED)                                                                    \
  template <typename T>                                                                         \
  MH_MOVED(T) NAME(T value, T filling, ushort delta, ushort modulo = 32, MH_SITE) {             \
    return MOVED(value, filling, delta, modulo, mh_site);                                       \
  }                                                                                             \
  MH_NOT_MOVED(NAME, T filling, ushort delta, ushort modulo = 32, MH_SITE)
MH_FILL(simd_shuffle_and_fill_down, mh_filled_down)
MH_FILL(simd_shuffle_and_fill_up, mh_filled_up)

struct simd_vote {
  typedef ulong vote_t;
  ulong mh_mask;
  explicit constexpr simd_vote(vote_t mask) : mh_mask(mask) {}
  constexpr operator vote_t() const { return mh_mask; }
  MH_FN bool all() const { return mh_mask == 0xffffffff; }
  MH_FN bool any() const { return mh_mask != 0; }
};
MH_FN simd_vote simd_ballot(bool vote, MH_SITE) { return simd_vote(mh_ballot(vote, mh_site)); }
MH_FN simd_vote simd_active_threads_mask(MH_SITE) { return simd_vote((ulong)mh_active(mh_site)); }
MH_FN bool simd_any(bool vote, MH_SITE) { return mh_ballot(vote, mh_site) != 0; }
MH_FN bool simd_all(bool vote, MH_SITE) { return mh_ballot(!vote, mh_site) == 0; }
MH_FN bool simd_is_first(MH_SITE) {
  return __builtin_ctz(mh_active(mh_site)) == mh_attribute(8, 0);
}

}  // namespace metal
