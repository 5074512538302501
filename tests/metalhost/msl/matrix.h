// simdgroup_matrix 8x8: every lane holds two neighbours of one row, in the layout that MLX's steel
// kernels document and rely on.
#pragma once

extern "C" {
uint mh_matrix_row(void);
uint mh_matrix_column(void);
ulong mh_matrix_product(ulong a, ulong b, uint site);
}

namespace metal {

template <typename T, int Columns, int Rows> struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "simdgroup_matrix is 8x8");
  static_assert(is_floating_point_v<T>, "simdgroup_matrix holds half, bfloat or float");
  typedef vec<T, 2> storage_type;
  storage_type mh_elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    uint row = mh_matrix_row(), column = mh_matrix_column();
    mh_elements[0] = row == column ? diagonal : (T)0;
    mh_elements[1] = row == column + 1 ? diagonal : (T)0;
  }
  thread storage_type &thread_elements() { return *(thread storage_type *)&mh_elements; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int C, int R> MH_FN simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T x) {
  simdgroup_matrix<T, C, R> m;
  m.mh_elements = (vec<T, 2>)x;
  return m;
}

// The element's place in memory for this lane.
MH_FN ulong mh_element(uint i, ulong stride, ulong2 origin, bool transposed) {
  uint row = mh_matrix_row(), column = mh_matrix_column() + i;
  return transposed ? (origin.x + column) * stride + origin.y + row
                    : (origin.y + row) * stride + origin.x + column;
}

#define MH_MATRIX_MEMORY(SPACE)                                                                 \
  template <typename T>                                                                         \
  MH_FN void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &m, const SPACE T *from,           \
                            ulong stride = 8, ulong2 origin = (ulong2)0, bool transpose = false, \
                            MH_SITE) {                                                          \
    mh_active(mh_site);                                                                         \
    m.mh_elements[0] = from[mh_element(0, stride, origin, transpose)];                          \
    m.mh_elements[1] = from[mh_element(1, stride, origin, transpose)];                          \
  }                                                                                             \
  template <typename T>                                                                         \
  MH_FN void simdgroup_store(simdgroup_matrix<T, 8, 8> m, SPACE T *to, ulong stride = 8,        \
                             ulong2 origin = (ulong2)0, bool transpose = false, MH_SITE) {      \
    mh_active(mh_site);                                                                         \
    to[mh_element(0, stride, origin, transpose)] = m.mh_elements[0];                            \
    to[mh_element(1, stride, origin, transpose)] = m.mh_elements[1];                            \
  }
MH_MATRIX_MEMORY(device)
MH_MATRIX_MEMORY(threadgroup)

template <typename T> MH_FN ulong mh_pair(vec<T, 2> v) {
  float2 f = {(float)v[0], (float)v[1]};
  return as_type<ulong>(f);
}
template <typename D, typename A, typename B, typename C>
MH_FN void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8> &d,
                                         simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b,
                                         simdgroup_matrix<C, 8, 8> c, MH_SITE) {
  float2 p = as_type<float2>(mh_matrix_product(mh_pair<A>(a.mh_elements), mh_pair<B>(b.mh_elements),
                                               mh_site));
  d.mh_elements[0] = (D)((float)c.mh_elements[0] + p[0]);
  d.mh_elements[1] = (D)((float)c.mh_elements[1] + p[1]);
}
template <typename D, typename A, typename B>
MH_FN void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                              simdgroup_matrix<B, 8, 8> b, MH_SITE) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f), mh_site);
}

}  // namespace metal
