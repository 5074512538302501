/* Rows of a training step, forward and backward: RMS norm with rotation, the pooling of compression,
 * SwiGLU, cross entropy. The references of `metal_kernels` and `losses.py` say the same in ops. */

#include "common.h"

/* Pairs of the last 2 `half` channels turned by an angle, or back. */
static void turn(float *row, int width, int half, const float *c, const float *w, float direction) {
    float *x = row + width - 2 * half;
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], sine = direction * w[i];
        x[2 * i] = a * c[i] - b * sine;
        x[2 * i + 1] = a * sine + b * c[i];
    }
}

static float norm_row(const float *x, const float *weight, int width, float eps, float *out) {
    float sum = 0;
    for (int i = 0; i < width; i++) sum += x[i] * x[i];
    float rms = 1.0f / sqrtf(sum / width + eps);
    for (int i = 0; i < width; i++) out[i] = x[i] * rms * weight[i];
    return rms;
}

static void norm_row_back(const float *x, const float *weight, float rms, int width, const float *d,
                          float *d_x, float *d_weight) {
    float inner = 0;
    for (int i = 0; i < width; i++) {
        inner += d[i] * weight[i] * x[i];
        d_weight[i] += d[i] * x[i] * rms;
    }
    inner *= rms * rms / width;
    for (int i = 0; i < width; i++) d_x[i] = rms * (d[i] * weight[i] - x[i] * inner);
}

/* x [rows, width], position = row % length; cosine and sine [length, half]. */
void rows_norm(int rows, int length, int width, int half, float eps, const float *x,
               const float *weight, const float *cosine, const float *sine, float *out, float *rms) {
    for (size_t n = 0; n < (size_t)rows; n++) {
        size_t angle = n % length * half;
        rms[n] = norm_row(x + n * width, weight, width, eps, out + n * width);
        turn(out + n * width, width, half, cosine + angle, sine + angle, 1.0f);
    }
}

void rows_norm_back(int rows, int length, int width, int half, const float *x, const float *weight,
                    const float *cosine, const float *sine, const float *rms, const float *d,
                    float *d_x, float *d_weight) {
    float *own = floats(width);
    memset(d_weight, 0, width * sizeof(float));
    for (size_t n = 0; n < (size_t)rows; n++) {
        size_t angle = n % length * half;
        memcpy(own, d + n * width, width * sizeof(float));
        turn(own, width, half, cosine + angle, sine + angle, -1.0f);
        norm_row_back(x + n * width, weight, rms[n], width, own, d_x + n * width, d_weight);
    }
    free(own);
}

typedef struct {
    int tokens, entries, period, ratio, width, half, overlaps; /* angles by entry % period; R, d */
    float eps;
} pool_t;

/* One slot of an entry: where its values and scores lie, and its bias; `places` [R or 2 R] are its
 * tokens. -1: before the first token. */
static long slot_at(const pool_t *s, const int32_t *places, int slot, long *bias) {
    int c = s->overlaps ? 2 * s->width : s->width, back = s->overlaps && slot < s->ratio;
    int column = s->overlaps && !back ? s->width : 0;
    *bias = (long)(slot % s->ratio) * c + column;
    return places[slot] < 0 ? -1 : (long)places[slot] * c + column;
}

/* values and gates [n, c], bias [R, c] -> entries [E, d] of the tokens at `places` [E, R or 2 R]; kept:
 * pooled, top, share [E, d] and rms [E]. */
void rows_pool(const pool_t *s, const int32_t *places, const float *values, const float *gates,
               const float *bias, const float *weight, const float *cosine, const float *sine,
               float *entries, float *const *kept) {
    int d = s->width, slots = s->overlaps ? 2 * s->ratio : s->ratio;
    for (int n = 0; n < s->entries; n++) {
        float *pooled = kept[0] + (size_t)n * d, *top = kept[1] + (size_t)n * d;
        float *share = kept[2] + (size_t)n * d, *out = entries + (size_t)n * d;
        for (int i = 0; i < d; i++) top[i] = -INFINITY, pooled[i] = share[i] = 0;
        long own, from;
        for (int slot = 0; slot < slots; slot++) {
            if ((from = slot_at(s, places + (size_t)n * slots, slot, &own)) < 0) continue;
            for (int i = 0; i < d; i++) {
                float x = gates[from + i] + bias[own + i];
                top[i] = x > top[i] ? x : top[i];
            }
        }
        for (int slot = 0; slot < slots; slot++) {
            if ((from = slot_at(s, places + (size_t)n * slots, slot, &own)) < 0) continue;
            for (int i = 0; i < d; i++) {
                float e = exponential(gates[from + i] + bias[own + i] - top[i]);
                share[i] += e;
                pooled[i] += e * values[from + i];
            }
        }
        for (int i = 0; i < d; i++) {
            share[i] = 1.0f / share[i];
            pooled[i] *= share[i];
        }
        size_t angle = (size_t)(n % s->period) * s->half;
        kept[3][n] = norm_row(pooled, weight, d, s->eps, out);
        turn(out, d, s->half, cosine + angle, sine + angle, 1.0f);
    }
}

/* `to`: cotangents of values, gates, bias and weight; tokens may be in several entries. */
void rows_pool_back(const pool_t *s, const int32_t *places, const float *values,
                    const float *gates, const float *bias, const float *weight, const float *cosine,
                    const float *sine, float *const *kept, const float *d_entries, float *const *to) {
    int d = s->width, c = s->overlaps ? 2 * d : d, slots = s->overlaps ? 2 * s->ratio : s->ratio;
    float *turned = floats(d), *d_pooled = floats(d);
    for (int part = 0; part < 2; part++)
        memset(to[part], 0, (size_t)s->tokens * c * sizeof(float));
    memset(to[2], 0, (size_t)s->ratio * c * sizeof(float));
    memset(to[3], 0, d * sizeof(float));
    for (int n = 0; n < s->entries; n++) {
        const float *pooled = kept[0] + (size_t)n * d, *top = kept[1] + (size_t)n * d;
        const float *share = kept[2] + (size_t)n * d;
        size_t angle = (size_t)(n % s->period) * s->half;
        memcpy(turned, d_entries + (size_t)n * d, d * sizeof(float));
        turn(turned, d, s->half, cosine + angle, sine + angle, -1.0f);
        norm_row_back(pooled, weight, kept[3][n], d, turned, d_pooled, to[3]);
        for (int slot = 0; slot < slots; slot++) {
            long own, from = slot_at(s, places + (size_t)n * slots, slot, &own);
            if (from < 0) continue;
            float *d_value = to[0] + from, *d_gate = to[1] + from, *d_bias = to[2] + own;
            for (int i = 0; i < d; i++) {
                float p = exponential(gates[from + i] + bias[own + i] - top[i]) * share[i];
                float along = p * d_pooled[i];
                float of_score = along * (values[from + i] - pooled[i]);
                d_value[i] += along;
                d_gate[i] += of_score;
                d_bias[i] += of_score;
            }
        }
    }
    free(turned);
    free(d_pooled);
}

/* gate_up [rows, 2 width] -> clamped silu(gate) up times weights [rows], or 1 where there are none. */
void rows_swiglu(int rows, int width, float limit, const float *gate_up, const float *weights,
                 float *out) {
    for (size_t n = 0; n < (size_t)rows; n++) {
        const float *gate = gate_up + n * 2 * width, *up = gate + width;
        float weight = weights ? weights[n] : 1.0f;
        for (int i = 0; i < width; i++) {
            float g = gate[i] > limit ? limit : gate[i];
            float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
            out[n * width + i] = g / (1.0f + exponential(-g)) * u * weight;
        }
    }
}

void rows_swiglu_back(int rows, int width, float limit, const float *gate_up, const float *weights,
                      const float *d, float *d_gate_up, float *d_weights) {
    for (size_t n = 0; n < (size_t)rows; n++) {
        const float *gate = gate_up + n * 2 * width, *up = gate + width, *own = d + n * width;
        float *d_gate = d_gate_up + n * 2 * width, *d_up = d_gate + width, sum = 0;
        float weight = weights ? weights[n] : 1.0f;
        for (int i = 0; i < width; i++) {
            float g = gate[i] > limit ? limit : gate[i];
            float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
            float sigmoid = 1.0f / (1.0f + exponential(-g)), silu = g * sigmoid;
            sum += own[i] * silu * u;
            float slope = (sigmoid + silu * (1.0f - sigmoid)) * u * weight * own[i];
            d_gate[i] = gate[i] > limit ? 0 : slope;
            d_up[i] = up[i] > limit || up[i] < -limit ? 0 : silu * weight * own[i];
        }
        if (d_weights) d_weights[n] = sum;
    }
}

/* Sum of weights [rows] times -log p(target) of logits [rows, V], and log sums [rows]; rows of no
 * weight are passed over. */
void rows_cross_entropy(int rows, int V, const float *logits, const int32_t *targets,
                        const float *weights, float *log_sums, float *total) {
    double sum = 0;
    for (size_t n = 0; n < (size_t)rows; n++) {
        const float *x = logits + n * V;
        if (weights[n] == 0) continue;
        float top = x[0], spread = 0;
        for (int i = 0; i < V; i++) top = x[i] > top ? x[i] : top;
        for (int i = 0; i < V; i++) spread += exponential(x[i] - top);
        log_sums[n] = top + logf(spread);
        sum += weights[n] * (log_sums[n] - x[targets[n]]);
    }
    *total = (float)sum;
}

void rows_cross_entropy_back(int rows, int V, const float *logits, const int32_t *targets,
                             const float *weights, const float *log_sums, const float *factor,
                             float *d) {
    for (size_t n = 0; n < (size_t)rows; n++) {
        const float *x = logits + n * V;
        float *own = d + n * V, weight = weights[n] * *factor;
        if (weights[n] == 0) {
            memset(own, 0, V * sizeof(float));
            continue;
        }
        for (int i = 0; i < V; i++) own[i] = weight * exponential(x[i] - log_sums[n]);
        own[targets[n]] -= weight;
    }
}
