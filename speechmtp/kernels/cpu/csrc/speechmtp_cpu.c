/* What the loader asks of the library before it uses anything else: its interface, and whether vectors compute here
   what plain C does. */
#include "decoder.h"
#include "vec.h"

#include <math.h>

enum { IN = 5, OUT = 3 * VL - 1, PANELS = 2, PANEL = 2 * VL, MOST = 9 };

/* Number of this library's interface: the one of ABI in library.py. */
int speechmtp_cpu_abi(void) { return 1; }

static int is_close(float found, double expected) { return fabs(found - expected) <= 1e-6 * (1.0 + fabs(expected)); }

/* One operation after the other on numbers that float32 holds exactly, and the functions of vec.h. */
static int test_vectors(void) {
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x3555, 0x7bff, 0x0001, 0x8400}; /* 1, -2, 1/3, largest, least */
    static const double values[] = {1.0, -2.0, 0.333251953125, 65504.0, 5.9604644775390625e-08, -6.103515625e-05};
    float x[VL], y[VL];
    uint16_t half[VL];
    int8_t byte[16] = {0};
    for (int i = 0; i < VL; i++) {
        x[i] = (float)(i % 2 ? -i : 2 * i) + 0.5f;
        half[i] = halves[i % 6];
        byte[i] = (int8_t)(i % 2 ? -128 + i : 127 - i);
    }
    const vf v = v_load(x);
    double sum = 0.0, top = x[0];
    for (int i = 0; i < VL; i++) sum += x[i], top = x[i] > top ? x[i] : top;
    if (!is_close(v_sum(v), sum)) return 1;
    vf several[VL];
    for (int i = 0; i < VL; i++) several[i] = v_mul(v, v_set((float)(i + 1)));
    v_store(y, v_sums(several));
    for (int i = 0; i < VL; i++)
        if (!is_close(y[i], sum * (i + 1))) return 8;
    if (v_top(v) != (float)top) return 2;
    v_store(y, v_half(half));
    for (int i = 0; i < VL; i++)
        if (y[i] != (float)values[i % 6]) return 3;
    v_store(y, v_int8(byte));
    for (int i = 0; i < VL; i++)
        if (y[i] != (float)byte[i]) return 4;
    v_store(y, v_fma(v, v_set(4.0f), v_sub(v_max(v, v_set(0.0f)), v_min(v, v_set(0.0f)))));
    for (int i = 0; i < VL; i++)
        if (y[i] != 4.0f * x[i] + fabsf(x[i])) return 5;
    v_store(y, v_div(v_round(v_mul(v, v_set(1.5f))), v_set(2.0f)));
    for (int i = 0; i < VL; i++)
        if (y[i] != rintf(x[i] * 1.5f) / 2.0f) return 6;
    v_store(y, v_exp(v));
    for (int i = 0; i < VL; i++)
        if (fabs(y[i] - exp(x[i])) > 1e-6 * exp(x[i])) return 7;
    return 0;
}

/* A layer of every kind of weights, with odd sizes: the last vector is not full, and rows come in blocks. */
static int test_linear(int kind) {
    float full[PANELS * IN * PANEL] = {0}, scale[PANELS * PANEL], bias[PANELS * PANEL], x[MOST * IN], y[MOST * OUT];
    uint16_t halves[PANELS * IN * PANEL] = {0};
    int8_t bytes[PANELS * IN * PANEL] = {0};
    for (int i = 0; i < MOST * IN; i++) x[i] = (float)(i % 7 - 3) * 0.25f;
    for (int i = 0; i < PANELS * PANEL; i++) scale[i] = (float)(1 + i % 3), bias[i] = (float)(i % 4);
    for (int o = 0; o < OUT; o++)
        for (int k = 0; k < IN; k++) {
            const int at = (o / PANEL * IN + k) * PANEL + o % PANEL, one = (o + 2 * k) % 3; /* 0, 1 or 2 */
            full[at] = (float)one, bytes[at] = (int8_t)one;
            halves[at] = (uint16_t)(one == 0 ? 0 : one == 1 ? 0x3c00 : 0x4000);
        }
    const void *panels = kind == FLOAT32 ? (const void *)full : kind == FLOAT16 ? (const void *)halves : bytes;
    const Linear w = {kind, IN, OUT, panels, kind == INT8 ? scale : NULL, bias};
    for (int rows = 1; rows <= MOST; rows++) {
        for (int i = 0; i < MOST * OUT; i++) y[i] = 1.0f;
        linear_run(&w, x, rows, y, OUT, 1);
        for (int m = 0; m < MOST; m++)
            for (int o = 0; o < OUT; o++) {
                float sum = 0.0f;
                for (int k = 0; k < IN; k++) sum += x[m * IN + k] * (float)((o + 2 * k) % 3);
                const float expected = 1.0f + (m < rows ? sum * (kind == INT8 ? scale[o] : 1.0f) + bias[o] : 0.0f);
                if (y[m * OUT + o] != expected) return 1; /* every product and sum is exact */
            }
    }
    return 0;
}

enum { DIM = VL + 3, SLOTS = 2 * VL, WIDTH = 4, SEEN = 3 }; /* the head fills no whole number of vectors */

/* A layer of one head: its keys and values are the slots' and that of the entry itself, and all else adds nothing. */
static int test_attention(void) {
    float in[4 * PANEL * WIDTH] = {0}, out[PANEL * DIM] = {0}, none[PANEL * WIDTH] = {0}, bias[4 * PANEL] = {0};
    float keys[SLOTS * DIM], values[SLOTS * DIM], x[WIDTH] = {0}, expected[WIDTH] = {0}, work[4096];
    const int64_t position = 0;
    const uint8_t itself = 1;
    for (int i = 0; i < 3 * DIM; i++) bias[i] = 0.25f * (float)(i % 5 - 2);
    for (int i = 0; i < WIDTH; i++)
        for (int k = 0; k < DIM; k++) out[k * PANEL + i] = 0.125f * (float)((i + k) % 7 - 3);
    const Norm norm = {NO_NORM, WIDTH, NULL, NULL, 0.0f}, inner = {NO_NORM, DIM, NULL, NULL, 0.0f};
    Layer layer = {.norm = norm, .activation = GELU};
    layer.self = (Attention){norm, inner, inner, {FLOAT32, WIDTH, 3 * DIM, in, NULL, bias},
                             {FLOAT32, DIM, WIDTH, out, NULL, NULL}, {0}, 1, 1, DIM, 0, 0, 0.5f};
    layer.inner = layer.outer = (Linear){FLOAT32, WIDTH, WIDTH, none, NULL, NULL};
    for (int64_t seen = 0; seen < SLOTS; seen += SEEN) {
        for (int i = 0; i < SLOTS * DIM; i++) keys[i] = 0.5f * (float)(i % 9 - 4), values[i] = (float)(i % 11 - 5);
        double scores[SLOTS], top = -INFINITY, total = 0.0, mixed[DIM] = {0};
        for (int64_t slot = 0; slot <= seen; slot++) {
            scores[slot] = 0.0;
            const float *key = slot < seen ? keys + slot * DIM : bias + DIM;
            for (int k = 0; k < DIM; k++) scores[slot] += 0.5 * bias[k] * key[k];
            top = scores[slot] > top ? scores[slot] : top;
        }
        for (int64_t slot = 0; slot <= seen; slot++) {
            const double weight = exp(scores[slot] - top);
            total += weight;
            const float *value = slot < seen ? values + slot * DIM : bias + 2 * DIM;
            for (int k = 0; k < DIM; k++) mixed[k] += weight * value[k];
        }
        for (int i = 0; i < WIDTH; i++) {
            x[i] = 0.0f, expected[i] = 0.0f;
            for (int k = 0; k < DIM; k++) expected[i] += (float)(out[k * PANEL + i] * mixed[k] / total);
        }
        const Slots slots = {keys, values, SLOTS * DIM, SLOTS * DIM};
        const Entries entries = {1, 1, &position, &seen, NULL, seen % 2 ? &itself : NULL, NULL, NULL};
        const Rotary rotary = {0};
        if (layer_work(&layer, 1, SLOTS) > 4096) return 1;
        layer_run(&layer, &rotary, &entries, &slots, NULL, x, work);
        for (int i = 0; i < WIDTH; i++)
            if (fabsf(x[i] - expected[i]) > 1e-5f) return 1;
    }
    return 0;
}

/* 0 if arithmetic with this library's instructions gives what is known, else the number of the first that does not. */
int speechmtp_cpu_selftest(void) {
    const int failed = test_vectors();
    if (failed) return failed;
    for (int kind = FLOAT32; kind <= INT8; kind++)
        if (test_linear(kind)) return 10 + kind;
    return test_attention() ? 20 : 0;
}
