/* What the two directions of attention share; see attention.c. */

#include "common.h"

typedef struct {
    int heads, groups, batch, length, entries; /* H, g, B, S, T */
    int width, rope, latent, output;           /* K, R, L, O */
    int window, ratio, block, segments;
    float eps;
} shape_t;

/* Tokens in turn: `count` from `first` on, after `before` others that lie from `prompt` on. Of its
 * `entries` the earliest `shared` lie from `prompt_entry` on, its own from `own_entry` on. */
typedef struct {
    int first, count, before, prompt, own_entry, prompt_entry, shared, entries;
} segment_t;

typedef struct {
    const float *residual, *kv, *entries;   /* [B S, L], [B S, K], [B T, K] */
    const float *query, *out, *sinks;       /* [H, K, L], [g O, H / g K], [H] */
    const float *cosine, *sine;             /* [S, R / 2] */
    const segment_t *segments;              /* what follows what among the B S tokens */
    const uint8_t *chosen;                  /* [B, S, T], or NULL: all closed entries */
} given_t;

typedef struct {
    float *turned_q, *scale, *rows, *turned, *weights;
    /* [B S, H R], [H, B S], [H, B (S + T), L + R + O], [B S, H R], blocks' [n, m] by head and segment */
} saved_t;

enum { OWN, BEFORE, SHARED, LATER, PARTS };

/* Rows of `rows` that lie side by side, and the column of the first among a block's keys. */
typedef struct {
    int row, count, column;
} part_t;

/* n queries from token `first` on, the first at `position` of its timeline; their keys are the tokens
 * from position `oldest` on, of the segment (OWN) and BEFORE it, then its entries: SHARED, LATER. */
typedef struct {
    int first, count, position, oldest, window, entries, width; /* width: window + entries */
    part_t parts[PARTS];
} block_t;

static block_t block_at(const shape_t *s, const segment_t *g, int start) {
    int stop = start + s->block < g->count ? start + s->block : g->count;
    int position = g->before + start, end = g->before + stop, tokens = s->batch * s->length;
    int oldest = position - s->window + 1 > 0 ? position - s->window + 1 : 0;
    int before = g->before > oldest ? g->before - oldest : 0, window = end - oldest;
    int closed = s->ratio ? end / s->ratio : 0;
    if (closed > g->entries) closed = g->entries;
    int shared = g->shared < closed ? g->shared : closed;
    part_t own = {g->first + oldest + before - g->before, window - before, before};
    part_t earlier = {g->prompt + oldest, before, 0};
    part_t of_prompt = {tokens + g->prompt_entry, shared, window};
    part_t later = {tokens + g->own_entry, closed - shared, window + shared};
    return (block_t){g->first + start, stop - start, position, oldest, window, closed,
                     window + closed, {own, earlier, of_prompt, later}};
}

/* Floats of the weights of one head. */
static size_t weights_of(const shape_t *s, const segment_t *segments) {
    size_t total = 0;
    for (int i = 0; i < s->segments; i++)
        for (int start = 0; start < segments[i].count; start += s->block) {
            block_t b = block_at(s, segments + i, start);
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
static void queries(const shape_t *s, const given_t *g, const saved_t *k, int h, const block_t *at,
                    float *q) {
    int L = s->latent, R = s->rope;
    for (int i = 0; i < at->count; i++) {
        size_t n = (size_t)at->first + i;
        float scale = k->scale[(size_t)h * s->batch * s->length + n], *row = q + (size_t)i * (L + R);
        const float *r = g->residual + n * L, *turned = k->turned_q + (n * s->heads + h) * R;
        for (int j = 0; j < L; j++) row[j] = r[j] * scale;
        for (int j = 0; j < R; j++) row[L + j] = turned[j] * scale;
    }
}
