/* The indexer of a training step; `index_scores.py` says the same in ops. Queries of a block are made
 * in scratch, forward and backward, and products of a few queries at a time stay in the cache. */

#include "common.h"

enum { BLOCK = 64, FEW = 8 };

typedef struct {
    int heads, batch, length, entries, latent, width, rope, ratio; /* H, B, S, T, L, K, R */
} index_t;

typedef struct {
    const float *residual, *query, *weights, *keys; /* [B S, L], [H K, L], [B S, H], [B, T, K] */
    const float *cosine, *sine;                     /* [S, R / 2] */
} index_given_t;

static int closed(const index_t *s, int query) {
    int count = (query + 1) / s->ratio;
    return count < s->entries ? count : s->entries;
}

/* The last R channels of every head turned by the position's angle, or back. */
static void rotate(const index_t *s, const index_given_t *g, int position, float direction, float *q) {
    int half = s->rope / 2;
    const float *c = g->cosine + (size_t)position * half, *w = g->sine + (size_t)position * half;
    for (int h = 0; h < s->heads; h++) {
        float *row = q + (size_t)(h + 1) * s->width - s->rope;
        for (int i = 0; i < half; i++) {
            float a = row[2 * i], b = row[2 * i + 1], sine = direction * w[i];
            row[2 * i] = a * c[i] - b * sine;
            row[2 * i + 1] = a * sine + b * c[i];
        }
    }
}

/* Rotated queries [n, H, K] of the tokens from `first` on of row b. */
static void queries(const index_t *s, const index_given_t *g, int b, int first, int n, float *q) {
    int width = s->heads * s->width;
    const float *r = g->residual + ((size_t)b * s->length + first) * s->latent;
    product(PLAIN, TURNED, n, width, s->latent, r, s->latent, g->query, s->latent, 0, q, width);
    for (int i = 0; i < n; i++) rotate(s, g, first + i, 1.0f, q + (size_t)i * width);
}

void index_forward(const index_t *s, const index_given_t *g, float *scores) {
    int H = s->heads, T = s->entries;
    float *q = floats((size_t)BLOCK * H * s->width), *found = floats((size_t)FEW * H * T);
    for (int b = 0; b < s->batch; b++)
        for (int first = 0; first < s->length; first++) {
            if (first % BLOCK == 0)
                queries(s, g, b, first, s->length - first < BLOCK ? s->length - first : BLOCK, q);
            if (first % FEW) continue;
            int n = s->length - first < FEW ? s->length - first : FEW, most = closed(s, first + n - 1);
            product(PLAIN, TURNED, n * H, most, s->width, q + (size_t)(first % BLOCK) * H * s->width,
                    s->width, g->keys + (size_t)b * T * s->width, s->width, 0, found, most);
            for (int i = 0; i < n; i++) {
                size_t token = (size_t)b * s->length + first + i;
                float *row = scores + token * T;
                int own = closed(s, first + i);
                memset(row, 0, own * sizeof(float));
                for (int h = 0; h < H; h++) {
                    const float *one = found + ((size_t)i * H + h) * most;
                    float weight = g->weights[token * H + h];
                    for (int j = 0; j < own; j++) row[j] += weight * (one[j] > 0 ? one[j] : 0);
                }
                for (int j = own; j < T; j++) row[j] = -INFINITY;
            }
        }
    free(q);
    free(found);
}

/* Cotangents of the query matrix, of the heads' weights and of the keys. */
void index_backward(const index_t *s, const index_given_t *g, const float *d_scores, float *d_query,
                    float *d_weights, float *d_keys) {
    int H = s->heads, T = s->entries, K = s->width, L = s->latent;
    float *q = floats((size_t)BLOCK * H * K), *d_q = floats((size_t)BLOCK * H * K);
    float *found = floats((size_t)FEW * H * T);
    memset(d_query, 0, (size_t)H * K * L * sizeof(float));
    memset(d_keys, 0, (size_t)s->batch * T * K * sizeof(float));
    for (int b = 0; b < s->batch; b++)
        for (int first = 0; first < s->length; first += FEW) {
            int place = first % BLOCK, start = first - place;
            int block = s->length - start < BLOCK ? s->length - start : BLOCK;
            if (place == 0) queries(s, g, b, first, block, q);
            int n = s->length - first < FEW ? s->length - first : FEW, most = closed(s, first + n - 1);
            const float *keys = g->keys + (size_t)b * T * K, *own_q = q + (size_t)place * H * K;
            product(PLAIN, TURNED, n * H, most, K, own_q, K, keys, K, 0, found, most);
            for (int i = 0; i < n; i++) {
                size_t token = (size_t)b * s->length + first + i;
                const float *d = d_scores + token * T;
                int own = closed(s, first + i);
                for (int h = 0; h < H; h++) {
                    float *one = found + ((size_t)i * H + h) * most, sum = 0;
                    float weight = g->weights[token * H + h];
                    for (int j = 0; j < own; j++) {
                        sum += (one[j] > 0 ? one[j] : 0) * d[j];
                        one[j] = one[j] > 0 ? weight * d[j] : 0;
                    }
                    memset(one + own, 0, (most - own) * sizeof(float));
                    d_weights[token * H + h] = sum;
                }
            }
            float *own_d = d_q + (size_t)place * H * K;
            if (most)
                product(PLAIN, PLAIN, n * H, K, most, found, most, keys, K, 0, own_d, K);
            else
                memset(own_d, 0, (size_t)n * H * K * sizeof(float));
            product(TURNED, PLAIN, most, K, n * H, found, most, own_q, K, 1,
                    d_keys + (size_t)b * T * K, K);
            if (place + n < block) continue;
            for (int i = 0; i < block; i++) rotate(s, g, start + i, -1.0f, d_q + (size_t)i * H * K);
            product(TURNED, PLAIN, H * K, L, block, d_q, H * K,
                    g->residual + ((size_t)b * s->length + start) * L, L, 1, d_query, L);
        }
    free(q);
    free(d_q);
    free(found);
}

/* The k-th largest of x, whose order is lost. */
static float kth_largest(float *x, int count, int k) {
    int low = 0, high = count - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) {
                float kept = x[i];
                x[i++] = x[j];
                x[j--] = kept;
            }
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            break;
    }
    return x[k - 1];
}

/* Which of scores [rows, T] are among the k largest: equal ones from the lowest place up, NaN and
 * -inf never. */
void index_choose(int rows, int T, int k, const float *scores, uint8_t *chosen) {
    float *x = floats(T);
    for (int row = 0; row < rows; row++) {
        const float *own = scores + (size_t)row * T;
        uint8_t *into = chosen + (size_t)row * T;
        int count = 0, above = 0;
        for (int j = 0; j < T; j++)
            if (own[j] > -INFINITY) x[count++] = own[j];
        float least = count > k ? kth_largest(x, count, k) : -INFINITY;
        for (int j = 0; j < T; j++) above += own[j] > least;
        int ties = k - above;
        for (int j = 0; j < T; j++) {
            int tied = count > k && own[j] == least && ties > 0;
            ties -= tied;
            into[j] = own[j] > least || tied;
        }
    }
    free(x);
}

/* Mean KL(mass || softmax of scores) over the entries `among`, and its cotangents of the scores.
 * Rows whose entries were paid nothing do not count. */
void index_loss(int rows, int T, const float *scores, const float *mass, const uint8_t *among,
                float *d_scores, float *mean) {
    double total = 0;
    int counted = 0;
    for (int row = 0; row < rows; row++) {
        const float *x = scores + (size_t)row * T, *paid = mass + (size_t)row * T;
        const uint8_t *own = among + (size_t)row * T;
        float *d = d_scores + (size_t)row * T, sum = 0, top = -1e30f, spread = 0, loss = 0;
        for (int j = 0; j < T; j++) {
            sum += own[j] ? paid[j] : 0;
            float value = own[j] ? x[j] : -1e30f;
            top = value > top ? value : top;
        }
        if (!(sum > 0)) {
            memset(d, 0, T * sizeof(float));
            continue;
        }
        for (int j = 0; j < T; j++) {
            d[j] = own[j] ? exponential(x[j] - top) : 0;
            spread += d[j];
        }
        float share = 1.0f / spread, log_spread = top + logf(spread), each = 1.0f / sum;
        for (int j = 0; j < T; j++) {
            if (!own[j]) continue;
            float target = paid[j] * each;
            if (target > 1e-30f) loss += target * (logf(target) - (x[j] - log_spread));
            d[j] = d[j] * share - target;
        }
        total += loss;
        counted++;
    }
    float each = 1.0f / (counted ? counted : 1);
    for (size_t i = 0; i < (size_t)rows * T; i++) d_scores[i] *= each;
    *mean = (float)(total * each);
}
