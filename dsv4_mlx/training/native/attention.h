/* What the two directions of attention share; see attention.c. */

#include "common.h"

typedef struct {
    int heads, groups, batch, length, entries; /* H, g, B, S, T */
    int width, rope, latent, output;           /* K, R, L, O */
    int window, ratio, block;
    float eps;
} shape_t;

typedef struct {
    const float *residual, *kv, *entries;   /* [B S, L], [B S, K], [B T, K] */
    const float *query, *out, *sinks;       /* [H, K, L], [g O, H / g K], [H] */
    const float *cosine, *sine;             /* [S, R / 2] */
    const uint8_t *chosen;                  /* [B, S, T], or NULL: all closed entries */
} given_t;

typedef struct {
    float *turned_q, *scale, *rows, *turned, *weights;
    /* [B S, H R], [H, B S], [H, B (S + T), L + R + O], [B S, H R], blocks' [n, m] by head and row */
} saved_t;

typedef struct {
    int first, count, oldest, window, entries, width; /* n queries; its keys: window + entries */
} block_t;

static block_t block_at(const shape_t *s, int first) {
    int stop = first + s->block < s->length ? first + s->block : s->length;
    int oldest = first - s->window + 1 > 0 ? first - s->window + 1 : 0;
    int closed = s->ratio ? stop / s->ratio : 0;
    if (closed > s->entries) closed = s->entries;
    return (block_t){first, stop - first, oldest, stop - oldest, closed, stop - oldest + closed};
}

/* Floats of the weights of one head and one row of the batch. */
static size_t weights_of(const shape_t *s) {
    size_t total = 0;
    for (int first = 0; first < s->length; first += s->block) {
        block_t b = block_at(s, first);
        total += (size_t)b.count * b.width;
    }
    return total;
}

static int row_width(const shape_t *s) { return s->latent + s->rope + s->output; }

/* Pairs (2 i, 2 i + 1) of x [B S, H R] turned by the angle of their position, or back. */
static void rotate(const shape_t *s, const given_t *g, float *x, float direction) {
    int half = s->rope / 2;
    for (int n = 0; n < s->batch * s->length; n++) {
        const float *c = g->cosine + (size_t)(n % s->length) * half;
        const float *w = g->sine + (size_t)(n % s->length) * half;
        for (int h = 0; h < s->heads; h++) {
            float *row = x + ((size_t)n * s->heads + h) * s->rope;
            for (int i = 0; i < half; i++) {
                float a = row[2 * i], b = row[2 * i + 1], sine = direction * w[i];
                row[2 * i] = a * c[i] - b * sine;
                row[2 * i + 1] = a * sine + b * c[i];
            }
        }
    }
}

/* The rotary rows of the query matrix, [H R, L]. */
static float *rotary_queries(const shape_t *s, const float *query) {
    size_t part = (size_t)s->rope * s->latent;
    float *found = floats(s->heads * part);
    for (int h = 0; h < s->heads; h++)
        memcpy(found + h * part, query + ((size_t)(h + 1) * s->width - s->rope) * s->latent,
               part * sizeof(float));
    return found;
}

/* Where head h's matrix [O, K] begins in the output matrix, and how far its rows are apart. */
static size_t out_at(const shape_t *s, int h) {
    int each = s->heads / s->groups;
    return (size_t)(h / each) * s->output * each * s->width + (size_t)(h % each) * s->width;
}

static int out_stride(const shape_t *s) { return s->heads / s->groups * s->width; }

/* The rotary columns of the output matrix [g, O, H / g R], gathered from it or put into it. */
static void rotary_outputs(const shape_t *s, float *out, float *packed, int gather) {
    int each = s->heads / s->groups;
    for (int h = 0; h < s->heads; h++)
        for (int o = 0; o < s->output; o++) {
            float *whole = out + out_at(s, h) + (size_t)o * out_stride(s) + s->width - s->rope;
            float *part = packed + (((size_t)(h / each) * s->output + o) * each + h % each) * s->rope;
            if (gather)
                memcpy(part, whole, s->rope * sizeof(float));
            else
                memcpy(whole, part, s->rope * sizeof(float));
        }
}

/* `residual gram` of some rows, gram = W_h^T W_h: its product with the residual is |W_h r|^2. */
enum { SOME = 512 };

static void gram_of(const shape_t *s, const float *query, float *gram) {
    product(TURNED, PLAIN, s->latent, s->latent, s->width, query, s->latent, query, s->latent, 0, gram,
            s->latent);
}

/* Queries of a block times their scale: [n, L + R]. */
static void queries(const shape_t *s, const given_t *g, const saved_t *k, int h, int b,
                    const block_t *at, float *q) {
    int L = s->latent, R = s->rope;
    for (int i = 0; i < at->count; i++) {
        size_t n = (size_t)b * s->length + at->first + i;
        float scale = k->scale[(size_t)h * s->batch * s->length + n], *row = q + (size_t)i * (L + R);
        const float *r = g->residual + n * L, *turned = k->turned_q + (n * s->heads + h) * R;
        for (int j = 0; j < L; j++) row[j] = r[j] * scale;
        for (int j = 0; j < R; j++) row[L + j] = turned[j] * scale;
    }
}
