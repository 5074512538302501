// Vector constructors, conversions and reinterpretation.
#pragma once

namespace metal {

template <typename To, typename From> MH_FN constexpr To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs two types of one size");
  return __builtin_bit_cast(To, value);
}

// Appends a scalar or the elements of a vector to a vector under construction.
template <typename V, typename A> MH_FN constexpr void mh_append(thread V &vector, thread int &at, A a) {
  typedef typename mh_shape<V>::element E;
  if constexpr (mh_is_vector<A>)
    for (int i = 0; i < mh_shape<A>::length; i++) vector[at++] = static_cast<E>(a[i]);
  else
    vector[at++] = static_cast<E>(a);
}

template <typename... A> MH_FN constexpr int mh_count() { return (mh_shape<A>::length + ... + 0); }

template <typename V, typename... A> MH_FN constexpr V mh_make(A... a) {
  typedef typename mh_shape<V>::element E;
  constexpr int given = mh_count<A...>();
  static_assert(given <= 1 || given == mh_shape<V>::length,
                "a vector constructor needs one value or as many as the vector has elements");
  V result = (V)(E)0;
  int at = 0;
  if constexpr (given == 1) {
    result = (V)(static_cast<E>(a), ...);
  } else {
    (mh_append(result, at, a), ...);
  }
  return result;
}

template <typename V, typename A> MH_FN constexpr V mh_static_cast_vector(A a) { return mh_make<V>(a); }

}  // namespace metal

// float4(a, b, c, d): the name followed by a parenthesis constructs.
#define char2(...) mh_make<char2>(__VA_ARGS__)
#define char3(...) mh_make<char3>(__VA_ARGS__)
#define char4(...) mh_make<char4>(__VA_ARGS__)
#define uchar2(...) mh_make<uchar2>(__VA_ARGS__)
#define uchar3(...) mh_make<uchar3>(__VA_ARGS__)
#define uchar4(...) mh_make<uchar4>(__VA_ARGS__)
#define short2(...) mh_make<short2>(__VA_ARGS__)
#define short3(...) mh_make<short3>(__VA_ARGS__)
#define short4(...) mh_make<short4>(__VA_ARGS__)
#define ushort2(...) mh_make<ushort2>(__VA_ARGS__)
#define ushort3(...) mh_make<ushort3>(__VA_ARGS__)
#define ushort4(...) mh_make<ushort4>(__VA_ARGS__)
#define int2(...) mh_make<int2>(__VA_ARGS__)
#define int3(...) mh_make<int3>(__VA_ARGS__)
#define int4(...) mh_make<int4>(__VA_ARGS__)
#define uint2(...) mh_make<uint2>(__VA_ARGS__)
#define uint3(...) mh_make<uint3>(__VA_ARGS__)
#define uint4(...) mh_make<uint4>(__VA_ARGS__)
#define long2(...) mh_make<long2>(__VA_ARGS__)
#define long3(...) mh_make<long3>(__VA_ARGS__)
#define long4(...) mh_make<long4>(__VA_ARGS__)
#define ulong2(...) mh_make<ulong2>(__VA_ARGS__)
#define ulong3(...) mh_make<ulong3>(__VA_ARGS__)
#define ulong4(...) mh_make<ulong4>(__VA_ARGS__)
#define half2(...) mh_make<half2>(__VA_ARGS__)
#define half3(...) mh_make<half3>(__VA_ARGS__)
#define half4(...) mh_make<half4>(__VA_ARGS__)
#define bfloat2(...) mh_make<bfloat2>(__VA_ARGS__)
#define bfloat3(...) mh_make<bfloat3>(__VA_ARGS__)
#define bfloat4(...) mh_make<bfloat4>(__VA_ARGS__)
#define float2(...) mh_make<float2>(__VA_ARGS__)
#define float3(...) mh_make<float3>(__VA_ARGS__)
#define float4(...) mh_make<float4>(__VA_ARGS__)
