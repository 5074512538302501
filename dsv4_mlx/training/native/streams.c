/* mHC of a training step: `metal_kernels/hc_pre` and `hc_post` say the same in ops. Four streams. A
 * chunk of tokens is read once and stays in the cache; the mixing weights of LANES tokens lie side
 * by side, so that every step of Sinkhorn's iteration is a few vector instructions. */

#include "common.h"

enum { N = 4, MIXES = (2 + N) * N, CHUNK = 64, LANES = 16, MOST_ITERATIONS = 32 };

typedef float lanes_t[LANES];

typedef struct {
    int tokens, width, iterations; /* M, D */
    float hc_eps, norm_eps;
} streams_t;

typedef struct {
    const float *streams, *fn, *base, *scale, *norm; /* [M, N, D], [24, N D], [24], [3], [D] */
} pre_t;

/* What `pre` found and its way back needs: [M, 24] before the RMS, [M], [M, N], [M]. */
typedef struct {
    float *raw, *inverse, *collapse, *rms;
} kept_t;

/* Sinkhorn's iteration of LANES tokens: the matrix after every step, and what it was divided by. */
typedef struct {
    lanes_t softmax[N * N], after[2 * MOST_ITERATIONS][N * N], by[2 * MOST_ITERATIONS][N];
} sinkhorn_t;

static float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* Lines of the matrix: rows for `across` 0, columns for 1; place i of line number `line`. */
static inline int at(int across, int line, int i) { return across ? i * N + line : line * N + i; }

static void normalise(lanes_t *from, lanes_t *to, lanes_t *by, int across, float eps) {
    for (int line = 0; line < N; line++)
        for (int l = 0; l < LANES; l++) {
            float sum = eps;
            for (int i = 0; i < N; i++) sum += from[at(across, line, i)][l];
            float share = 1.0f / sum;
            by[line][l] = share;
            for (int i = 0; i < N; i++)
                to[at(across, line, i)][l] = from[at(across, line, i)][l] * share;
        }
}

static void normalise_back(lanes_t *after, lanes_t *by, lanes_t *d, int across) {
    for (int line = 0; line < N; line++)
        for (int l = 0; l < LANES; l++) {
            float inner = 0;
            for (int i = 0; i < N; i++)
                inner += d[at(across, line, i)][l] * after[at(across, line, i)][l];
            for (int i = 0; i < N; i++)
                d[at(across, line, i)][l] = (d[at(across, line, i)][l] - inner) * by[line][l];
        }
}

/* Mixing scores [16] of LANES tokens -> the mixing matrix, `after[steps - 1]`. */
static int sinkhorn(const streams_t *s, lanes_t *scores, sinkhorn_t *k) {
    lanes_t raised[N * N];
    for (int row = 0; row < N; row++)
        for (int l = 0; l < LANES; l++) {
            float top = scores[row * N][l], sum = 0;
            for (int i = 1; i < N; i++)
                top = scores[row * N + i][l] > top ? scores[row * N + i][l] : top;
            for (int i = 0; i < N; i++) {
                float e = exponential(scores[row * N + i][l] - top);
                k->softmax[row * N + i][l] = e;
                sum += e;
            }
            for (int i = 0; i < N; i++) {
                k->softmax[row * N + i][l] /= sum;
                raised[row * N + i][l] = k->softmax[row * N + i][l] + s->hc_eps;
            }
        }
    int steps = 2 * s->iterations - 1;
    for (int step = 0; step < steps; step++)
        normalise(step ? k->after[step - 1] : raised, k->after[step], k->by[step], step % 2 == 0,
                  s->hc_eps);
    return steps;
}

/* d: cotangents of the mixing matrix become those of the scores. */
static void sinkhorn_back(const streams_t *s, sinkhorn_t *k, lanes_t *d) {
    for (int step = 2 * s->iterations - 2; step >= 0; step--)
        normalise_back(k->after[step], k->by[step], d, step % 2 == 0);
    for (int row = 0; row < N; row++)
        for (int l = 0; l < LANES; l++) {
            float inner = 0;
            for (int i = 0; i < N; i++) inner += d[row * N + i][l] * k->softmax[row * N + i][l];
            for (int i = 0; i < N; i++)
                d[row * N + i][l] = k->softmax[row * N + i][l] * (d[row * N + i][l] - inner);
        }
}

/* Scores of tokens [first, first + LANES) of a chunk, one mix after the other; the rest are 0. */
static void scores_of(const pre_t *g, const float *raw, const float *inverse, int count,
                      lanes_t *mix, lanes_t *scores) {
    for (int m = 0; m < MIXES; m++)
        for (int l = 0; l < LANES; l++) {
            mix[m][l] = l < count ? raw[l * MIXES + m] * inverse[l] : 0;
            scores[m][l] = mix[m][l] * g->scale[m < N ? 0 : m < 2 * N ? 1 : 2] + g->base[m];
        }
}

static float inverse_rms(const float *x, int count, float eps) {
    float sum = 0;
    for (int i = 0; i < count; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / count + eps);
}

static void collapsed(const float *streams, const float *weights, int width, float *found) {
    const float *a = streams, *b = a + width, *c = b + width, *d = c + width;
    float p = weights[0], q = weights[1], r = weights[2], t = weights[3];
    for (int i = 0; i < width; i++) found[i] = p * a[i] + q * b[i] + r * c[i] + t * d[i];
}

void streams_pre(const streams_t *s, const pre_t *g, const kept_t *k, float *normed, float *post,
                 float *comb) {
    int D = s->width, W = N * D;
    sinkhorn_t *work = (sinkhorn_t *)floats(sizeof(sinkhorn_t) / sizeof(float));
    for (int start = 0; start < s->tokens; start += CHUNK) {
        int chunk = s->tokens - start < CHUNK ? s->tokens - start : CHUNK;
        const float *x = g->streams + (size_t)start * W;
        float *raw = k->raw + (size_t)start * MIXES;
        product(PLAIN, TURNED, chunk, MIXES, W, x, W, g->fn, W, 0, raw, MIXES);
        for (int t = 0; t < chunk; t++)
            k->inverse[start + t] = inverse_rms(x + (size_t)t * W, W, s->norm_eps);
        for (int first = 0; first < chunk; first += LANES) {
            int count = chunk - first < LANES ? chunk - first : LANES;
            lanes_t mix[MIXES], scores[MIXES];
            scores_of(g, raw + first * MIXES, k->inverse + start + first, count, mix, scores);
            int steps = sinkhorn(s, scores + 2 * N, work);
            for (int l = 0; l < count; l++) {
                size_t n = (size_t)start + first + l;
                for (int i = 0; i < N; i++) {
                    k->collapse[n * N + i] = sigmoid(scores[i][l]) + s->hc_eps;
                    post[n * N + i] = 2.0f * sigmoid(scores[N + i][l]);
                }
                for (int i = 0; i < N * N; i++) comb[n * N * N + i] = work->after[steps - 1][i][l];
            }
        }
        for (int t = 0; t < chunk; t++) {
            size_t n = (size_t)start + t;
            float *out = normed + n * D;
            collapsed(x + (size_t)t * W, k->collapse + n * N, D, out);
            float rms = k->rms[n] = inverse_rms(out, D, s->norm_eps);
            for (int i = 0; i < D; i++) out[i] *= rms * g->norm[i];
        }
    }
    free(work);
}

/* One token through norm and collapse: cotangents of streams and collapse weights. */
static void collapse_back(const streams_t *s, const pre_t *g, const kept_t *k, size_t n,
                          const float *d_normed, float *c, float *d_norm, float *d_collapse,
                          float *d_x) {
    int D = s->width;
    const float *x = g->streams + n * N * D, *weights = k->collapse + n * N;
    float rms = k->rms[n], inner = 0;
    collapsed(x, weights, D, c);
    for (int i = 0; i < D; i++) {
        d_norm[i] += d_normed[i] * c[i] * rms;
        inner += d_normed[i] * g->norm[i] * c[i];
    }
    inner *= rms * rms / D;
    for (int i = 0; i < D; i++) c[i] = rms * (d_normed[i] * g->norm[i] - c[i] * inner);
    for (int j = 0; j < N; j++) {
        float sum = 0;
        for (int i = 0; i < D; i++) {
            sum += c[i] * x[j * D + i];
            d_x[j * D + i] = weights[j] * c[i];
        }
        d_collapse[j] = sum;
    }
}

/* Cotangents of the scores [24] of a chunk's tokens from LANES on become those of `raw`. */
static void scores_back(const streams_t *s, const pre_t *g, const kept_t *k, size_t n, int count,
                        const float *d_collapse, const float *d_post, const float *d_comb,
                        sinkhorn_t *work, float *d_base, float *d_scale, float *d_raw,
                        float *d_inverse) {
    lanes_t mix[MIXES], scores[MIXES], d[MIXES];
    memset(d, 0, sizeof d);
    scores_of(g, k->raw + n * MIXES, k->inverse + n, count, mix, scores);
    sinkhorn(s, scores + 2 * N, work);
    for (int l = 0; l < count; l++) {
        for (int i = 0; i < N; i++) {
            float pre = sigmoid(scores[i][l]), post = sigmoid(scores[N + i][l]);
            d[i][l] = d_collapse[l * N + i] * pre * (1 - pre);
            d[N + i][l] = d_post[(n + l) * N + i] * 2.0f * post * (1 - post);
        }
        for (int i = 0; i < N * N; i++) d[2 * N + i][l] = d_comb[(n + l) * N * N + i];
    }
    sinkhorn_back(s, work, d + 2 * N);
    for (int l = 0; l < count; l++) d_inverse[l] = 0;
    for (int m = 0; m < MIXES; m++) {
        int group = m < N ? 0 : m < 2 * N ? 1 : 2;
        for (int l = 0; l < count; l++) {
            float d_mix = d[m][l] * g->scale[group];
            d_base[m] += d[m][l];
            d_scale[group] += d[m][l] * mix[m][l];
            d_inverse[l] += d_mix * k->raw[(n + l) * MIXES + m];
            d_raw[l * MIXES + m] = d_mix * k->inverse[n + l];
        }
    }
}

/* `to`: cotangents of what was given, in its order. */
void streams_pre_back(const streams_t *s, const pre_t *g, const kept_t *k, const float *d_normed,
                      const float *d_post, const float *d_comb, float *const *to) {
    int D = s->width, W = N * D;
    float *d_fn = to[1], *d_base = to[2], *d_scale = to[3], *d_norm = to[4];
    sinkhorn_t *work = (sinkhorn_t *)floats(sizeof(sinkhorn_t) / sizeof(float));
    float *c = floats(D), *d_collapse = floats(CHUNK * N), *d_raw = floats(CHUNK * MIXES);
    float d_inverse[CHUNK];
    memset(d_base, 0, MIXES * sizeof(float));
    memset(d_scale, 0, 3 * sizeof(float));
    memset(d_norm, 0, D * sizeof(float));
    for (int start = 0; start < s->tokens; start += CHUNK) {
        int chunk = s->tokens - start < CHUNK ? s->tokens - start : CHUNK;
        const float *x = g->streams + (size_t)start * W;
        float *d_x = to[0] + (size_t)start * W;
        for (int t = 0; t < chunk; t++)
            collapse_back(s, g, k, start + t, d_normed + (size_t)(start + t) * D, c, d_norm,
                          d_collapse + t * N, d_x + (size_t)t * W);
        for (int first = 0; first < chunk; first += LANES) {
            int count = chunk - first < LANES ? chunk - first : LANES;
            scores_back(s, g, k, start + first, count, d_collapse + first * N, d_post, d_comb, work,
                        d_base, d_scale, d_raw + first * MIXES, d_inverse + first);
        }
        for (int t = 0; t < chunk; t++) {
            float inverse = k->inverse[start + t];
            float factor = -d_inverse[t] * inverse * inverse * inverse / W;
            for (int i = 0; i < W; i++) d_x[(size_t)t * W + i] += factor * x[(size_t)t * W + i];
        }
        product(PLAIN, PLAIN, chunk, W, MIXES, d_raw, MIXES, g->fn, W, 1, d_x, W);
        product(TURNED, PLAIN, MIXES, W, chunk, d_raw, MIXES, x, W, start > 0, d_fn, W);
    }
    float *scratch[] = {(float *)work, c, d_collapse, d_raw};
    for (int i = 0; i < 4; i++) free(scratch[i]);
}

/* What a sublayer gave: y [D] and `parts` rows more. */
static void summed(const float *y, const float *routed, int parts, int width, float *found) {
    memcpy(found, y, width * sizeof(float));
    for (int r = 0; r < parts; r++)
        for (int i = 0; i < width; i++) found[i] += routed[r * width + i];
}

void streams_post(int tokens, int width, int parts, const float *y, const float *streams,
                  const float *post, const float *comb, const float *routed, float *mixed) {
    float *sum = floats(width);
    for (size_t n = 0; n < (size_t)tokens; n++) {
        const float *x = streams + n * N * width, *c = comb + n * N * N;
        summed(y + n * width, routed + n * parts * width, parts, width, sum);
        for (int k = 0; k < N; k++) {
            float *out = mixed + (n * N + k) * width, own = post[n * N + k];
            float p = c[k], q = c[N + k], r = c[2 * N + k], t = c[3 * N + k];
            for (int i = 0; i < width; i++)
                out[i] = p * x[i] + q * x[width + i] + r * x[2 * width + i] + t * x[3 * width + i] +
                         own * sum[i];
        }
    }
    free(sum);
}

/* Cotangents of y (and of every part), streams, post and comb. */
void streams_post_back(int tokens, int width, int parts, const float *y, const float *streams,
                       const float *post, const float *comb, const float *routed, const float *d,
                       float *d_y, float *d_streams, float *d_post, float *d_comb) {
    float *sum = floats(width);
    for (size_t n = 0; n < (size_t)tokens; n++) {
        const float *x = streams + n * N * width, *c = comb + n * N * N, *own = d + n * N * width;
        const float *w = post + n * N;
        summed(y + n * width, routed + n * parts * width, parts, width, sum);
        for (int i = 0; i < width; i++)
            d_y[n * width + i] = w[0] * own[i] + w[1] * own[width + i] + w[2] * own[2 * width + i] +
                                 w[3] * own[3 * width + i];
        for (int k = 0; k < N; k++) {
            float found = 0;
            for (int i = 0; i < width; i++) found += own[k * width + i] * sum[i];
            d_post[n * N + k] = found;
        }
        for (int j = 0; j < N; j++) {
            float a = 0, b = 0, e = 0, f = 0, *out = d_streams + (n * N + j) * width;
            const float *row = c + j * N, *xj = x + j * width;
            for (int i = 0; i < width; i++) {
                float p = own[i], q = own[width + i], r = own[2 * width + i], t = own[3 * width + i];
                out[i] = row[0] * p + row[1] * q + row[2] * r + row[3] * t;
                a += xj[i] * p;
                b += xj[i] * q;
                e += xj[i] * r;
                f += xj[i] * t;
            }
            memcpy(d_comb + (n * N + j) * N, (float[]){a, b, e, f}, N * sizeof(float));
        }
    }
    free(sum);
}
