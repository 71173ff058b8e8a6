/* The token with the largest logit, without all logits: products of 8-bit integers bound every logit from both sides,
   and only those that can be the largest are computed. The result is that of `linear_run` and `largest_of`. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "decoder.h"
#include "screen.h"
#include "vec.h"

#define PANEL (2 * VL)
#define MIDDLE 64 /* inputs are rounded to 1 .. 127, with 64 for 0, so that no pair of products overflows 16 bits */
#define ROWS 4    /* rows that one pass takes */

#if VL == 16
typedef __m512i vi;
INLINE vi i_zero(void) { return _mm512_setzero_si512(); }
INLINE vi i_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi i_load(const int8_t *p) { return _mm512_loadu_si512(p); }
INLINE vi i_four(const uint8_t *p) { int32_t x; memcpy(&x, p, 4); return _mm512_set1_epi32(x); }
INLINE vi i_products(vi inputs, vi weights) {
    return _mm512_madd_epi16(_mm512_maddubs_epi16(inputs, weights), _mm512_set1_epi16(1));
}
INLINE vf i_float(vi x) { return _mm512_cvtepi32_ps(x); }
#elif VL == 8
typedef __m256i vi;
INLINE vi i_zero(void) { return _mm256_setzero_si256(); }
INLINE vi i_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi i_load(const int8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vi i_four(const uint8_t *p) { int32_t x; memcpy(&x, p, 4); return _mm256_set1_epi32(x); }
INLINE vi i_products(vi inputs, vi weights) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(inputs, weights), _mm256_set1_epi16(1));
}
INLINE vf i_float(vi x) { return _mm256_cvtepi32_ps(x); }
#else
typedef int32x4_t vi;
INLINE vi i_zero(void) { return vdupq_n_s32(0); }
INLINE vi i_add(vi a, vi b) { return vaddq_s32(a, b); }
INLINE vi i_load(const int8_t *p) { return vreinterpretq_s32_s8(vld1q_s8(p)); }
INLINE vi i_four(const uint8_t *p) { int32_t x; memcpy(&x, p, 4); return vdupq_n_s32(x); }
INLINE vi i_products(vi inputs, vi weights) { /* inputs are below 128: signed and unsigned are one */
    const int8x16_t a = vreinterpretq_s8_s32(inputs), b = vreinterpretq_s8_s32(weights);
    return vpaddq_s32(vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))),
                      vpaddlq_s16(vmull_high_s8(a, b)));
}
INLINE vf i_float(vi x) { return vcvtq_f32_s32(x); }
#endif

/* A row's inputs as integers; a logit is at most `inputs` times the sum of its weights' sizes, plus `weights` times
   their largest error, away from what integers give. */
typedef struct {
    float step, inputs, weights;
} Rounded;

static Rounded rounded(const float *x, int64_t size, uint8_t *integers) {
    float top = 0.0f;
    int64_t total = 0;
    for (int64_t i = 0; i < size; i++) {
        const float one = fabsf(x[i]);
        top = one > top || isnan(one) ? one : top;
    }
    const float step = top / (MIDDLE - 1);
    for (int64_t i = 0; i < size; i++) {
        const int64_t one = step > 0.0f && isfinite(step) ? lrintf(x[i] / step) : 0;
        integers[i] = (uint8_t)(MIDDLE + one);
        total += one < 0 ? -one : one;
    }
    for (int64_t i = size; i % 4; i++) integers[i] = MIDDLE;
    /* Half a step, and what sums of floats lose: `size` roundings of 2^-24 on each side. */
    return (Rounded){step, 0.5001f * step + 4.0f * size * 5.97e-8f * top, step * total * 1.0001f};
}

/* Bounds of the logits of a panel: `upper[m]` is raised to the largest upper one, `lower[m]` to the largest lower one. */
INLINE void bounds(int rows, const Screen *screen, const Linear *w, int64_t panel, const uint8_t *integers, int64_t size,
                   const Rounded *row, float *upper, int64_t upper_row, float *lower) {
    vi sum[ROWS][2];
    for (int m = 0; m < rows; m++) sum[m][0] = sum[m][1] = i_zero();
    const int8_t *weights = screen->panels + panel * size * PANEL;
    for (int64_t k = 0; k < size; k += 4, weights += 4 * PANEL) {
        __builtin_prefetch(weights + 4096);
        const vi left = i_load(weights), right = i_load(weights + 4 * VL);
        for (int m = 0; m < rows; m++) {
            const vi four = i_four(integers + m * size + k);
            sum[m][0] = i_add(sum[m][0], i_products(four, left));
            sum[m][1] = i_add(sum[m][1], i_products(four, right));
        }
    }
    for (int m = 0; m < rows; m++) {
        vf most = v_set(-INFINITY), least = v_set(-INFINITY);
        for (int j = 0; j < 2; j++) {
            const int64_t at = panel * PANEL + j * VL;
            const vf scale = v_mul(v_load(screen->scale + at), v_set(row[m].step));
            vf middle = v_mul(v_sub(i_float(sum[m][j]), v_load(screen->offset + at)), scale);
            vf apart = v_fma(v_load(screen->sizes + at), v_set(row[m].inputs),
                             v_mul(v_load(screen->errors + at), v_set(row[m].weights)));
            if (w->bias) { /* the sum with a large bias is rounded too */
                middle = v_add(middle, v_load(w->bias + at));
                apart = v_fma(v_max(middle, v_sub(v_set(0.0f), middle)), v_set(3e-7f), apart);
            }
            most = v_max(v_add(middle, apart), most);
            least = v_max(v_sub(middle, apart), least);
        }
        upper[m * upper_row + panel] = v_top(most);
        const float low = v_top(least);
        lower[m] = low > lower[m] ? low : lower[m];
    }
}

int64_t screen_work(const Linear *w, int64_t rows) {
    const int64_t panels = (w->out + PANEL - 1) / PANEL;
    return rows * (panels + 4 + (w->in + 7) / 4) + w->out + PANEL;
}

void screen_run(const Screen *screen, const Linear *w, const float *x, int64_t rows, int64_t *best, float *work) {
    const int64_t panels = (w->out + PANEL - 1) / PANEL, size = (w->in + 3) / 4 * 4;
    float *logits = work, *upper = logits + w->out + PANEL, *lower = upper + rows * panels;
    Rounded *row = (Rounded *)(lower + rows);
    uint8_t *integers = (uint8_t *)(row + rows);
    for (int64_t m = 0; m < rows; m++) {
        row[m] = rounded(x + m * w->in, w->in, integers + m * size);
        /* Without a step there are no bounds, and all logits are computed. */
        lower[m] = row[m].step >= FLT_MIN && isfinite(row[m].step) ? -INFINITY : NAN;
    }
    for (int64_t p = 0; p < panels; p++)
        for (int64_t m = 0; m < rows; m += ROWS) {
            const int64_t left = rows - m < ROWS ? rows - m : ROWS;
            const uint8_t *from = integers + m * size;
            float *to = upper + m * panels;
            if (left == 4) bounds(4, screen, w, p, from, size, row + m, to, panels, lower + m);
            else if (left == 3) bounds(3, screen, w, p, from, size, row + m, to, panels, lower + m);
            else if (left == 2) bounds(2, screen, w, p, from, size, row + m, to, panels, lower + m);
            else bounds(1, screen, w, p, from, size, row + m, to, panels, lower + m);
        }
    for (int64_t m = 0; m < rows; m++) {
        int64_t found = -1;
        float top = -INFINITY;
        for (int64_t p = 0; p < panels; p++) {
            if (!(upper[m * panels + p] >= lower[m])) continue;
            linear_panel(w, p, x + m * w->in, logits);
            const int64_t count = w->out - p * PANEL < PANEL ? w->out - p * PANEL : PANEL;
            for (int64_t i = 0; i < count; i++)
                if (logits[i] > top) {
                    top = logits[i];
                    found = p * PANEL + i;
                }
        }
        if (found < 0) { /* numbers that are not finite have no bounds */
            linear_run(w, x + m * w->in, 1, logits, w->out, 0);
            found = largest_of(logits, w->out);
        }
        best[m] = found;
    }
}
