/* MLX calls CBLAS by its plain names; the scipy-openblas32 library exports the same functions with a
 * prefix. Loaded with RTLD_GLOBAL before libmlx.so, these three answer for the slow ones MLX brings.
 * The library uses 32-bit integers, as CBLAS does, so every argument passes through unchanged. */

#include <stdatomic.h>

typedef int order_t;
typedef int transpose_t;

#define FORWARD(NAME, SCALAR, ARRAY)                                                              \
    void scipy_cblas_##NAME(order_t, transpose_t, transpose_t, int, int, int, SCALAR,             \
                            const ARRAY *, int, const ARRAY *, int, SCALAR, ARRAY *, int);        \
    void cblas_##NAME(order_t order, transpose_t trans_a, transpose_t trans_b, int m, int n,      \
                      int k, SCALAR alpha, const ARRAY *a, int lda, const ARRAY *b, int ldb,      \
                      SCALAR beta, ARRAY *c, int ldc) {                                           \
        atomic_fetch_add_explicit(&products, 1, memory_order_relaxed);                            \
        scipy_cblas_##NAME(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c,      \
                           ldc);                                                                  \
    }

/* How many products came through here: the proof that MLX is bound to this file. */
static atomic_ulong products;

unsigned long dsv4_blas_products(void) { return atomic_load(&products); }

FORWARD(sgemm, float, float)
FORWARD(dgemm, double, double)
FORWARD(cgemm, const void *, void)
