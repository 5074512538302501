/* What all sources share: products by the CBLAS that is global in the process, scratch, and `exp`. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

enum { PLAIN = 111, TURNED = 112 };

/* C[m, n] = A B + beta C; rows of A, B, C (as they are stored) lie lda, ldb, ldc apart. */
static inline void product(int trans_a, int trans_b, int m, int n, int k, const float *a, int lda,
                           const float *b, int ldb, float beta, float *c, int ldc) {
    if (m && n && k) cblas_sgemm(101, trans_a, trans_b, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

static inline float *floats(size_t count) {
    void *found = aligned_alloc(64, (count * sizeof(float) / 64 + 1) * 64);
    if (!found) abort();
    return found;
}

/* exp to 2 units in the last place, without a call, so that loops over it become vectors; below
 * -87.3 it is 0, NaN stays NaN. */
static inline float exponential(float x) {
    float clamped = x > 88.0f ? 88.0f : x;
    clamped = clamped < -87.3f ? -87.3f : clamped;
    float whole = rintf(clamped * 1.44269504088896341f);
    float f = clamped - whole * 0.693359375f;
    f += whole * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    int32_t power_bits = ((int32_t)whole + 127) << 23;
    float power;
    memcpy(&power, &power_bits, 4);
    return x < -87.3f ? 0.0f : y * power;
}
