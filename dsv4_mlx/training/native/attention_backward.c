/* The way back of attention.c: cotangents of all that was given, from that of `grouped`. */

#include "attention.h"

typedef struct {
    float *residual, *kv, *entries, *query, *out, *sinks; /* as given_t, `sinks` by head */
} cotangent_t;

/* Scratch of one head: cotangents of its rows, of its rotary queries and of its scales. */
typedef struct {
    float *rows, *turned_q, *scale, *turned, *q, *d_q, *d_out, *d_weights;
} work_t;

/* Weights p and their cotangents of one query: d becomes the scores' cotangent; returns the sink's. */
static float softmax_back(int width, const float *p, float *d) {
    float inner = 0, sum = 0;
    for (int j = 0; j < width; j++) {
        inner += p[j] * d[j];
        sum += p[j];
    }
    for (int j = 0; j < width; j++) d[j] = p[j] * (d[j] - inner);
    return -(1.0f - sum) * inner; /* what the sink took is what the weights lack to one */
}

/* One segment's blocks of weights `p`; returns where the next one's begin. */
static const float *attend_back(const shape_t *s, const given_t *g, const saved_t *k,
                                const float *grouped, int h, const segment_t *segment,
                                const float *p, const cotangent_t *to, const work_t *w) {
    int L = s->latent, R = s->rope, O = s->output, width = row_width(s), each = s->heads / s->groups;
    size_t tokens = (size_t)s->batch * s->length;
    const float *rows = k->rows + (size_t)h * (tokens + (size_t)s->batch * s->entries) * width;
    for (int start = 0; start < segment->count; start += s->block) {
        block_t at = block_at(s, segment, start);
        int n = at.count, m = at.width, LR = L + R, RO = R + O;
        float *d = w->d_weights;
        queries(s, g, k, h, &at, w->q);
        for (int i = 0; i < n; i++) {
            size_t row = (size_t)at.first + i;
            float *one = w->d_out + (size_t)i * RO;
            memcpy(one, w->turned + (row * s->heads + h) * R, R * sizeof(float));
            memcpy(one + R, grouped + (row * s->groups + h / each) * O, O * sizeof(float));
        }
        for (int i = 0; i < PARTS; i++) {
            size_t from = (size_t)at.parts[i].row * width + L;
            int count = at.parts[i].count, column = at.parts[i].column;
            product(PLAIN, TURNED, n, count, RO, w->d_out, RO, rows + from, width, 0, d + column, m);
            product(TURNED, PLAIN, count, RO, n, p + column, m, w->d_out, RO, 1, w->rows + from, width);
        }
        for (int i = 0; i < n; i++)
            to->sinks[h] += softmax_back(m, p + (size_t)i * m, d + (size_t)i * m);
        for (int i = 0; i < PARTS; i++) { /* OWN, the first, has rows always */
            size_t from = (size_t)at.parts[i].row * width;
            int count = at.parts[i].count, column = at.parts[i].column;
            product(PLAIN, PLAIN, n, LR, count, d + column, m, rows + from, width, i != OWN, w->d_q, LR);
            product(TURNED, PLAIN, count, LR, n, d + column, m, w->q, LR, 1, w->rows + from, width);
        }
        for (int i = 0; i < n; i++) {
            size_t row = (size_t)at.first + i;
            const float *d_q = w->d_q + (size_t)i * LR, *q = w->q + (size_t)i * LR;
            float scale = k->scale[h * tokens + row], along = 0, *r = to->residual + row * L;
            float *turned = w->turned_q + (row * s->heads + h) * R;
            for (int j = 0; j < LR; j++) along += d_q[j] * q[j];
            for (int j = 0; j < L; j++) r[j] += scale * d_q[j];
            for (int j = 0; j < R; j++) turned[j] = scale * d_q[L + j];
            w->scale[row] = along / scale;
        }
        p += (size_t)n * m;
    }
    return p;
}

/* Through the scale: |W_h r|^2 = r gram r, gram = W_h^T W_h. */
static void scales_back(const shape_t *s, const given_t *g, const saved_t *k, int h,
                        const cotangent_t *to, const float *d_scale) {
    int L = s->latent, total = s->batch * s->length;
    float *gram = floats((size_t)L * L), *d_gram = floats((size_t)L * L);
    float *some = floats((size_t)SOME * L), *weighted = floats((size_t)SOME * L);
    const float *query = g->query + (size_t)h * s->width * L;
    gram_of(s, query, gram);
    for (int start = 0; start < total; start += SOME) {
        int count = total - start < SOME ? total - start : SOME;
        const float *r = g->residual + (size_t)start * L;
        float *d_r = to->residual + (size_t)start * L;
        product(PLAIN, PLAIN, count, L, L, r, L, gram, L, 0, some, L);
        for (int n = 0; n < count; n++) {
            float scale = k->scale[(size_t)h * total + start + n];
            float twice = -d_scale[start + n] * scale * scale * scale; /* of |W_h r|^2, twice */
            for (int i = 0; i < L; i++) {
                size_t at = (size_t)n * L + i;
                d_r[at] += twice * some[at];
                weighted[at] = twice * r[at];
            }
        }
        product(TURNED, PLAIN, L, L, count, r, L, weighted, L, start > 0, d_gram, L);
    }
    product(PLAIN, PLAIN, s->width, L, L, query, L, d_gram, L, 0,
            to->query + (size_t)h * s->width * L, L);
    free(gram);
    free(d_gram);
    free(some);
    free(weighted);
}

/* Through keys and values of one head to rows and matrices. */
static void absorb_back(const shape_t *s, const given_t *g, int h, const cotangent_t *to,
                        const float *d_rows) {
    int L = s->latent, R = s->rope, O = s->output, K = s->width, width = row_width(s);
    int tokens = s->batch * s->length, stride = out_stride(s);
    const float *query = g->query + (size_t)h * K * L, *out = g->out + out_at(s, h);
    float *d_query = to->query + (size_t)h * K * L, *d_out = to->out + out_at(s, h);
    for (int part = 0; part < (s->entries ? 2 : 1); part++) {
        int count = part ? s->batch * s->entries : tokens;
        const float *x = part ? g->entries : g->kv;
        const float *d = d_rows + (part ? (size_t)tokens * width : 0), *values = d + L + R;
        float *d_x = part ? to->entries : to->kv;
        product(TURNED, PLAIN, K - R, L, count, x, K, d, width, 1, d_query, L);
        product(TURNED, PLAIN, O, K - R, count, values, width, x, K, part, d_out, stride);
        product(PLAIN, TURNED, count, K - R, L, d, width, query, L, h > 0, d_x, K);
        product(PLAIN, PLAIN, count, K - R, O, values, width, out, stride, 1, d_x, K);
        for (int n = 0; n < count; n++) {
            float *sum = d_x + (size_t)n * K + K - R;
            const float *one = d + (size_t)n * width + L;
            for (int j = 0; j < R; j++) sum[j] = (h ? sum[j] : 0) + one[j];
        }
    }
}

/* Through the rotary part of the outputs: cotangents of `turned`, and of its matrix. */
static void outputs_back(const shape_t *s, const given_t *g, const saved_t *k, const float *grouped,
                         const cotangent_t *to, float *turned) {
    int O = s->output, R = s->rope, each = s->heads / s->groups, tokens = s->batch * s->length;
    float *packed = floats((size_t)s->heads * O * R), *d_packed = floats((size_t)s->heads * O * R);
    rotary_outputs(s, (float *)g->out, packed, 1);
    for (int group = 0; group < s->groups; group++) {
        size_t own = (size_t)group * O * each * R, column = (size_t)group * each * R;
        const float *d = grouped + (size_t)group * O;
        product(PLAIN, PLAIN, tokens, each * R, O, d, s->groups * O, packed + own, each * R, 0,
                turned + column, s->heads * R);
        product(TURNED, PLAIN, O, each * R, tokens, d, s->groups * O, k->turned + column,
                s->heads * R, 0, d_packed + own, each * R);
    }
    rotate(s, g, turned, 1.0f);
    rotary_outputs(s, to->out, d_packed, 0);
    free(packed);
    free(d_packed);
}

/* Through the rotary part of the queries. */
static void queries_back(const shape_t *s, const given_t *g, const cotangent_t *to, float *turned_q) {
    int L = s->latent, R = s->rope, HR = s->heads * R, tokens = s->batch * s->length;
    float *rotary = rotary_queries(s, g->query), *d_rotary = floats((size_t)HR * L);
    rotate(s, g, turned_q, -1.0f);
    product(PLAIN, PLAIN, tokens, L, HR, turned_q, HR, rotary, L, 1, to->residual, L);
    product(TURNED, PLAIN, HR, L, tokens, turned_q, HR, g->residual, L, 0, d_rotary, L);
    for (int h = 0; h < s->heads; h++) {
        float *into = to->query + ((size_t)(h + 1) * s->width - R) * L;
        for (int i = 0; i < R * L; i++) into[i] += d_rotary[(size_t)h * R * L + i];
    }
    free(rotary);
    free(d_rotary);
}

void attention_backward(const shape_t *s, const given_t *g, const saved_t *k, const float *grouped,
                        const cotangent_t *to) {
    int L = s->latent, R = s->rope, O = s->output, H = s->heads;
    size_t tokens = (size_t)s->batch * s->length;
    size_t rows = (tokens + (size_t)s->batch * s->entries) * row_width(s);
    size_t most = (size_t)s->block * (s->block + s->window + s->entries);
    work_t w = {floats(rows), floats(tokens * H * R), floats(tokens), floats(tokens * H * R),
                floats((size_t)s->block * (L + R)), floats((size_t)s->block * (L + R)),
                floats((size_t)s->block * (R + O)), floats(most)};
    const float *p = k->weights;
    outputs_back(s, g, k, grouped, to, w.turned);
    memset(to->residual, 0, tokens * L * sizeof(float));
    for (int h = 0; h < H; h++) {
        memset(w.rows, 0, rows * sizeof(float));
        to->sinks[h] = 0;
        for (int i = 0; i < s->segments; i++)
            p = attend_back(s, g, k, grouped, h, g->segments + i, p, to, &w);
        scales_back(s, g, k, h, to, w.scale);
        absorb_back(s, g, h, to, w.rows);
    }
    queries_back(s, g, to, w.turned_q);
    float *scratch[] = {w.rows, w.turned_q, w.scale, w.turned, w.q, w.d_q, w.d_out, w.d_weights};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++) free(scratch[i]);
}
