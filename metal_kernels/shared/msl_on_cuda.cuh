// Lets NVRTC compile Metal texts: the part of the Metal shading language that our texts use.
//
// MLX puts this behind its own includes and before the kernel. `threadgroup` can only begin a
// declaration (`__shared__` does), so helpers take pointers as template types. A simdgroup is a warp,
// all of whose 32 lanes reach every simd function, as Metal's texts promise anyway.

// --- Address spaces: one on CUDA, but for what a block shares ---
// CUDA's headers spell this attribute with the word that Metal uses for memory.
#undef __device__
#define __device__ __attribute__((__device__))
#define device
#define constant
#define thread
#define threadgroup __shared__

// --- Where a thread stands ---
namespace msl {

inline __device__ unsigned int thread_index() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

inline __device__ uint3 thread_position() {
  return make_uint3(
      blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
      blockIdx.z * blockDim.z + threadIdx.z);
}

}  // namespace msl

#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
#define threads_per_threadgroup blockDim
#define threadgroups_per_grid gridDim
#define thread_position_in_grid (msl::thread_position())
#define thread_index_in_threadgroup (msl::thread_index())
#define thread_index_in_simdgroup (msl::thread_index() % 32u)
#define simdgroup_index_in_threadgroup (msl::thread_index() / 32u)

// --- Types ---
using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using bfloat = __nv_bfloat16;
using bfloat16_t = __nv_bfloat16;
using float16_t = __half;

#ifndef INFINITY
#define INFINITY (cuda::std::numeric_limits<float>::infinity())
#endif
#ifndef NAN
#define NAN (cuda::std::numeric_limits<float>::quiet_NaN())
#endif

namespace msl {

// Two or four numbers, aligned for one load. No swizzles.
template <typename T, int N>
struct Vector;

template <typename T>
struct alignas(2 * sizeof(T)) Vector<T, 2> {
  T x, y;

  Vector() = default;
  explicit __device__ Vector(T all) : x(all), y(all) {}
  __device__ Vector(T x, T y) : x(x), y(y) {}

  __device__ T& operator[](int i) { return i == 0 ? x : y; }
  __device__ const T& operator[](int i) const { return i == 0 ? x : y; }
};

template <typename T>
struct alignas(4 * sizeof(T)) Vector<T, 4> {
  T x, y, z, w;

  Vector() = default;
  explicit __device__ Vector(T all) : x(all), y(all), z(all), w(all) {}
  __device__ Vector(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}

  __device__ T& operator[](int i) { return i < 2 ? (i == 0 ? x : y) : (i == 2 ? z : w); }
  __device__ const T& operator[](int i) const {
    return i < 2 ? (i == 0 ? x : y) : (i == 2 ? z : w);
  }
};

// Both operands are vectors, or one is a number.
#define MSL_OPERATOR(op)                                                                  \
  template <typename T, int N>                                                            \
  __device__ Vector<T, N>& operator op##=(Vector<T, N>& a, Vector<T, N> b) {              \
    for (int i = 0; i < N; i++) a[i] op## = b[i];                                         \
    return a;                                                                             \
  }                                                                                       \
  template <typename T, int N>                                                            \
  __device__ Vector<T, N>& operator op##=(Vector<T, N>& a, T b) {                         \
    return a op## = Vector<T, N>(b);                                                      \
  }                                                                                       \
  template <typename T, int N>                                                            \
  __device__ Vector<T, N> operator op(Vector<T, N> a, Vector<T, N> b) {                   \
    return a op## = b;                                                                    \
  }                                                                                       \
  template <typename T, int N>                                                            \
  __device__ Vector<T, N> operator op(Vector<T, N> a, T b) {                              \
    return a op## = b;                                                                    \
  }                                                                                       \
  template <typename T, int N>                                                            \
  __device__ Vector<T, N> operator op(T a, Vector<T, N> b) {                              \
    return Vector<T, N>(a) op b;                                                          \
  }

MSL_OPERATOR(+)
MSL_OPERATOR(-)
MSL_OPERATOR(*)
MSL_OPERATOR(/)
#undef MSL_OPERATOR

}  // namespace msl

// CUDA's own vectors have neither constructors nor operators.
#define float2 msl::Vector<float, 2>
#define float4 msl::Vector<float, 4>
#define int2 msl::Vector<int, 2>
#define int4 msl::Vector<int, 4>
#define uint2 msl::Vector<uint, 2>
#define uint4 msl::Vector<uint, 4>

template <typename T, int N>
inline __device__ T dot(msl::Vector<T, N> a, msl::Vector<T, N> b) {
  T sum = a[0] * b[0];
  for (int i = 1; i < N; i++) sum += a[i] * b[i];
  return sum;
}

// The bits of a value as another type.
template <typename To, typename From>
inline __device__ To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type: another size");
  To bits;
  memcpy(&bits, &value, sizeof(To));
  return bits;
}

template <typename T>
inline __device__ T clamp(T value, T low, T high) { return min(max(value, low), high); }

// What Metal has in a fast quality too.
namespace precise {

inline __device__ float exp(float x) { return ::exp(x); }
inline __device__ float log(float x) { return ::log(x); }
inline __device__ float sqrt(float x) { return ::sqrt(x); }
inline __device__ float rsqrt(float x) { return ::rsqrt(x); }
inline __device__ float max(float a, float b) { return ::fmax(a, b); }
inline __device__ float min(float a, float b) { return ::fmin(a, b); }

}  // namespace precise

// --- Barriers ---
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline __device__ mem_flags operator|(mem_flags, mem_flags b) { return b; }
inline __device__ void threadgroup_barrier(mem_flags) { __syncthreads(); }
inline __device__ void simdgroup_barrier(mem_flags) { __syncwarp(); }

// --- Atomics: of unsigned integers, in whatever order ---
namespace msl {

enum MemoryOrder { RELAXED };
struct AtomicUint { unsigned int value; };

}  // namespace msl

#define atomic_uint msl::AtomicUint
#define memory_order_relaxed msl::RELAXED
inline __device__ uint atomic_fetch_add_explicit(msl::AtomicUint* at, uint x, msl::MemoryOrder) {
  return atomicAdd(&at->value, x);
}
inline __device__ uint atomic_load_explicit(const msl::AtomicUint* at, msl::MemoryOrder) {
  return *(const volatile uint*)&at->value;
}
inline __device__ void atomic_store_explicit(msl::AtomicUint* at, uint x, msl::MemoryOrder) {
  *(volatile uint*)&at->value = x;
}

// --- Functions of a simdgroup ---
namespace msl {

constexpr unsigned int ALL_LANES = 0xffffffffu;

// Neighbours first, as Apple's GPUs add: the same sum in every lane.
template <typename T, typename Join>
inline __device__ T butterfly(T value, Join join) {
  for (int distance = 1; distance < 32; distance *= 2)
    value = join(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

struct Sum { template <typename T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Max { template <typename T> __device__ T operator()(T a, T b) const { return max(a, b); } };
struct Min { template <typename T> __device__ T operator()(T a, T b) const { return min(a, b); } };
struct Or { template <typename T> __device__ T operator()(T a, T b) const { return a | b; } };
struct And { template <typename T> __device__ T operator()(T a, T b) const { return a & b; } };

}  // namespace msl

template <typename T>
inline __device__ T simd_sum(T value) { return msl::butterfly(value, msl::Sum()); }
template <typename T>
inline __device__ T simd_max(T value) { return msl::butterfly(value, msl::Max()); }
template <typename T>
inline __device__ T simd_min(T value) { return msl::butterfly(value, msl::Min()); }
template <typename T>
inline __device__ T simd_or(T value) { return msl::butterfly(value, msl::Or()); }
template <typename T>
inline __device__ T simd_and(T value) { return msl::butterfly(value, msl::And()); }

template <typename T>
inline __device__ T simd_prefix_inclusive_sum(T value) {
  for (uint distance = 1; distance < 32; distance *= 2) {
    T before = __shfl_up_sync(msl::ALL_LANES, value, distance);
    if (thread_index_in_simdgroup >= distance) value += before;
  }
  return value;
}

template <typename T>
inline __device__ T simd_prefix_exclusive_sum(T value) {
  T before = __shfl_up_sync(msl::ALL_LANES, simd_prefix_inclusive_sum(value), 1);
  return thread_index_in_simdgroup == 0 ? T(0) : before;
}

template <typename T>
inline __device__ T simd_shuffle(T value, ushort lane) {
  return __shfl_sync(msl::ALL_LANES, value, lane);
}
template <typename T>
inline __device__ T simd_shuffle_xor(T value, ushort mask) {
  return __shfl_xor_sync(msl::ALL_LANES, value, mask);
}
template <typename T>
inline __device__ T simd_shuffle_down(T value, ushort distance) {
  return __shfl_down_sync(msl::ALL_LANES, value, distance);
}
template <typename T>
inline __device__ T simd_shuffle_up(T value, ushort distance) {
  return __shfl_up_sync(msl::ALL_LANES, value, distance);
}
template <typename T>
inline __device__ T simd_broadcast(T value, ushort lane) { return simd_shuffle(value, lane); }
template <typename T>
inline __device__ T simd_broadcast_first(T value) { return simd_shuffle(value, 0); }

inline __device__ bool simd_any(bool value) { return __any_sync(msl::ALL_LANES, value); }
inline __device__ bool simd_all(bool value) { return __all_sync(msl::ALL_LANES, value); }

// One bit for every lane.
struct simd_vote {
  using vote_t = ulong;
  vote_t votes;
  explicit __device__ operator vote_t() const { return votes; }
};
inline __device__ simd_vote simd_ballot(bool value) {
  return {__ballot_sync(msl::ALL_LANES, value)};
}
