/* What the loader asks of the library before it uses anything else: its interface, and whether vectors compute here
   what plain C does. */
#include "linear.h"
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

/* 0 if arithmetic with this library's instructions gives what is known, else the number of the first that does not. */
int speechmtp_cpu_selftest(void) {
    const int failed = test_vectors();
    if (failed) return failed;
    for (int kind = FLOAT32; kind <= INT8; kind++)
        if (test_linear(kind)) return 10 + kind;
    return 0;
}
