/* Attention of a training step with absorbed heads, forward and backward; `absorbed_attention.py`
 * says the same in ops, and what is absorbed. A block of queries works in scratch that stays in the
 * cache, products read and write their operands in place, and only visible pairs meet `exp`.
 *
 * Rows of keys and values lie side by side: [L latent | R rotary | O output], keys the first L + R,
 * values the last R + O. Heads are worked off in two halves whatever the number of threads. */

#include "attention.h"

size_t attention_weights(const shape_t *s, const segment_t *g) { return weights_of(s, g); }

/* Keys and values of one head: those of tokens [B S], then those of entries [B T]. */
static void absorb(const shape_t *s, const given_t *g, int h, float *rows) {
    int L = s->latent, R = s->rope, O = s->output, K = s->width, width = row_width(s);
    int tokens = s->batch * s->length;
    const float *query = g->query + (size_t)h * K * L, *out = g->out + out_at(s, h);
    for (int part = 0; part < 2; part++) {
        const float *x = part ? g->entries : g->kv;
        int count = part ? s->batch * s->entries : tokens;
        float *into = rows + (part ? (size_t)tokens * width : 0);
        product(PLAIN, PLAIN, count, L, K - R, x, K, query, L, 0, into, width);
        product(PLAIN, TURNED, count, O, K - R, x, K, out, out_stride(s), 0, into + L + R, width);
        for (int n = 0; n < count; n++)
            memcpy(into + (size_t)n * width + L, x + (size_t)n * K + K - R, R * sizeof(float));
    }
}

static void scales(const shape_t *s, const given_t *g, int h, float *scale) {
    int L = s->latent, total = s->batch * s->length;
    float *gram = floats((size_t)L * L), *some = floats((size_t)SOME * L);
    gram_of(s, g->query + (size_t)h * s->width * L, gram);
    for (int start = 0; start < total; start += SOME) {
        int count = total - start < SOME ? total - start : SOME;
        const float *r = g->residual + (size_t)start * L;
        product(PLAIN, PLAIN, count, L, L, r, L, gram, L, 0, some, L);
        for (int n = 0; n < count; n++) {
            float sum = 0;
            for (int i = 0; i < L; i++) sum += some[(size_t)n * L + i] * r[(size_t)n * L + i];
            scale[start + n] = 1.0f / sqrtf((sum / s->width + s->eps) * s->width);
        }
    }
    free(gram);
    free(some);
}

/* Scores of one query become weights: zero where it sees nothing. */
static void softmax_row(const shape_t *s, const block_t *at, int query, float sink,
                        const uint8_t *chosen, float *row) {
    int from = query - s->window + 1 - at->oldest, to = query - at->oldest + 1;
    int closed = s->ratio ? (query + 1) / s->ratio : 0;
    if (from < 0) from = 0;
    if (closed > at->entries) closed = at->entries;
    float *entry = row + at->window, top = sink, sum = 0;
    for (int j = from; j < to; j++) top = row[j] > top ? row[j] : top;
    if (chosen)
        for (int j = 0; j < closed; j++) entry[j] = chosen[j] ? entry[j] : -1e30f;
    for (int j = 0; j < closed; j++) top = entry[j] > top ? entry[j] : top;
    for (int j = from; j < to; j++) {
        row[j] = exponential(row[j] - top);
        sum += row[j];
    }
    for (int j = 0; j < closed; j++) {
        entry[j] = exponential(entry[j] - top);
        sum += entry[j];
    }
    float share = 1.0f / (sum + exponential(sink - top));
    for (int j = from; j < to; j++) row[j] *= share;
    for (int j = 0; j < closed; j++) entry[j] *= share;
    memset(row, 0, from * sizeof(float));
    memset(row + to, 0, (at->window - to) * sizeof(float));
    memset(entry + closed, 0, (at->entries - closed) * sizeof(float));
}

/* One head's blocks of a segment: outputs into `grouped` [B S, g O] (added after the first of a
 * group), the rotary part into `turned`, weights into `p`, what entries were paid into `paid` [B, S, T]
 * or nowhere. Returns where the next segment's weights begin. */
static float *attend(const shape_t *s, const given_t *g, const saved_t *k, int h,
                   const segment_t *segment, float *p, float *grouped, float *paid, float *q,
                   float *found) {
    int L = s->latent, R = s->rope, O = s->output, width = row_width(s), each = s->heads / s->groups;
    size_t total = (size_t)s->batch * (s->length + s->entries);
    const float *rows = k->rows + (size_t)h * total * width;
    for (int start = 0; start < segment->count; start += s->block) {
        block_t at = block_at(s, segment, start);
        int n = at.count, m = at.width;
        queries(s, g, k, h, &at, q);
        for (int i = 0; i < PARTS; i++) {
            const float *keys = rows + (size_t)at.parts[i].row * width;
            product(PLAIN, TURNED, n, at.parts[i].count, L + R, q, L + R, keys, width, 0,
                    p + at.parts[i].column, m);
        }
        for (int i = 0; i < n; i++) {
            size_t row = (size_t)at.first + i;
            const uint8_t *chosen = g->chosen ? g->chosen + row * s->entries : NULL;
            softmax_row(s, &at, at.position + i, g->sinks[h], chosen, p + (size_t)i * m);
            if (paid)
                for (int j = 0; j < at.entries; j++)
                    paid[row * s->entries + j] += p[(size_t)i * m + at.window + j];
        }
        for (int i = 0; i < PARTS; i++) { /* OWN has rows always, so it sets what others add to */
            const float *keys = rows + (size_t)at.parts[i].row * width;
            product(PLAIN, PLAIN, n, R + O, at.parts[i].count, p + at.parts[i].column, m, keys + L,
                    width, i != OWN, found, R + O);
        }
        for (int i = 0; i < n; i++) {
            size_t row = (size_t)at.first + i;
            const float *one = found + (size_t)i * (R + O);
            float *sum = grouped + row * s->groups * O + (size_t)(h / each) * O;
            memcpy(k->turned + (row * s->heads + h) * R, one, R * sizeof(float));
            for (int o = 0; o < O; o++) sum[o] = (h % each ? sum[o] : 0) + one[R + o];
        }
        p += (size_t)n * m;
    }
    return p;
}

void attention_forward(const shape_t *s, const given_t *g, const saved_t *k, float *grouped,
                       float *paid) {
    int L = s->latent, R = s->rope, O = s->output, H = s->heads, each = H / s->groups;
    int tokens = s->batch * s->length;
    size_t rows = ((size_t)tokens + (size_t)s->batch * s->entries) * row_width(s);
    float *rotary = rotary_queries(s, g->query), *packed = floats((size_t)H * O * R);
    float *q = floats((size_t)s->block * (L + R)), *found = floats((size_t)s->block * (R + O));
    float *p = k->weights; /* by head, then by segment */
    product(PLAIN, TURNED, tokens, H * R, L, g->residual, L, rotary, L, 0, k->turned_q, H * R);
    rotate(s, g, k->turned_q, 1.0f);
    if (paid) memset(paid, 0, (size_t)tokens * s->entries * sizeof(float));
    for (int h = 0; h < H; h++) {
        scales(s, g, h, k->scale + (size_t)h * tokens);
        absorb(s, g, h, k->rows + h * rows);
        for (int i = 0; i < s->segments; i++)
            p = attend(s, g, k, h, g->segments + i, p, grouped, paid, q, found);
    }
    rotate(s, g, k->turned, -1.0f);
    rotary_outputs(s, (float *)g->out, packed, 1);
    for (int group = 0; group < s->groups; group++)
        product(PLAIN, TURNED, tokens, O, each * R, k->turned + (size_t)group * each * R, H * R,
                packed + (size_t)group * O * each * R, each * R, 1, grouped + (size_t)group * O,
                s->groups * O);
    free(rotary);
    free(packed);
    free(q);
    free(found);
}
