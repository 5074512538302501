/* cblas_sgemm whose sums run in another order, as another BLAS or processor would run them: the
 * terms of every product are shuffled, then OpenBLAS adds them up. The same shape always has the
 * same order, as it has in any BLAS; another number of rows, columns or terms has another one, and
 * so have the last rows of a product, which kernels take by a path of their own. */

#include <stdint.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, ROWS_AT_A_TIME = 4 };

void scipy_cblas_sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int,
                       float, float *, int);

static uint64_t seed;

void dsv4_other_sums(uint64_t number) { seed = number; }

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void shuffle(int *order, int k, int m, int n, int tail) {
    uint64_t state = seed;
    const int shape[] = {k, m, n, tail};
    for (int i = 0; i < 4; i++)
        state = next(&state) ^ (uint64_t)shape[i];
    for (int j = 0; j < k; j++)
        order[j] = j;
    for (int j = k - 1; j > 0; j--) {
        int other = (int)(next(&state) % (uint64_t)(j + 1)), kept = order[j];
        order[j] = order[other];
        order[other] = kept;
    }
}

/* `to` [rows, k] row-major: the k terms of every row of `from` in that order. */
static void gather(float *to, const float *from, int rows, int k, long row, long term,
                   const int *order) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < k; j++)
            to[(long)i * k + j] = from[i * row + order[j] * term];
}

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    if (order != ROW_MAJOR) { /* the transposed product, row by row */
        cblas_sgemm(ROW_MAJOR, trans_b, trans_a, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
        return;
    }
    int whole = m - m % ROWS_AT_A_TIME;
    float *terms_a = malloc(sizeof(float) * ((size_t)m + 1) * ((size_t)k + 1));
    float *terms_b = malloc(sizeof(float) * ((size_t)n + 1) * ((size_t)k + 1));
    int *terms = malloc(sizeof(int) * ((size_t)k + 1));
    if (!terms_a || !terms_b || !terms)
        abort();
    for (int tail = 0; tail < 2; tail++) {
        int first = tail ? whole : 0, rows = tail ? m - whole : whole;
        long row_a = trans_a == NO_TRANSPOSE ? lda : 1, row_b = trans_b == NO_TRANSPOSE ? 1 : ldb;
        if (rows == 0)
            continue;
        shuffle(terms, k, m, n, tail);
        gather(terms_a, a + first * row_a, rows, k, row_a, lda + 1 - row_a, terms);
        gather(terms_b, b, n, k, row_b, ldb + 1 - row_b, terms);
        scipy_cblas_sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE + 1, rows, n, k, alpha, terms_a, k,
                          terms_b, k, beta, c + (long)first * ldc, ldc);
    }
    free(terms_a);
    free(terms_b);
    free(terms);
}
