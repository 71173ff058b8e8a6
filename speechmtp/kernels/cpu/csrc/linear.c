/* Linear layers on packed weights, from one row to many. */
#include "linear.h"
#include "vec.h"

#define PANEL (2 * VL) /* outputs of a panel: two vectors */
#define AHEAD 4096 /* bytes to ask for early: weights come from memory once a call */
#if VL == 16
#define MOST_ROWS 8 /* rows that one pass over a panel takes */
#else
#define MOST_ROWS 4
#endif


/* `rows` and `panels` are constants after inlining: accumulators stay in registers. */
INLINE void block(int kind, int rows, int panels, const Linear *w, int64_t first, const float *x, float *y,
                  int64_t stride, int add) {
    const int64_t in = w->in, size = in * PANEL;
    vf sum[MOST_ROWS][8];
    for (int m = 0; m < rows; m++)
        for (int j = 0; j < 2 * panels; j++) sum[m][j] = v_set(0.0f);
    for (int64_t k = 0; k < in; k++) {
        vf value[MOST_ROWS];
        for (int m = 0; m < rows; m++) value[m] = v_set(x[m * in + k]);
        for (int j = 0; j < 2 * panels; j++) {
            const int64_t at = (first + j / 2) * size + k * PANEL + (j % 2) * VL;
            const int64_t bytes = kind == FLOAT32 ? 4 : kind == FLOAT16 ? 2 : 1;
            vf weight;
            if (j % 2 == 0) __builtin_prefetch((const char *)w->panels + at * bytes + AHEAD);
            if (kind == FLOAT32) weight = v_load((const float *)w->panels + at);
            else if (kind == FLOAT16) weight = v_half((const uint16_t *)w->panels + at);
            else weight = v_int8((const int8_t *)w->panels + at);
            for (int m = 0; m < rows; m++) sum[m][j] = v_fma(value[m], weight, sum[m][j]);
        }
    }
    for (int j = 0; j < 2 * panels; j++) {
        const int64_t column = first * PANEL + j * VL;
        const int64_t left = w->out - column;
        if (left <= 0) break;
        for (int m = 0; m < rows; m++) {
            float *to = y + m * stride + column, part[VL];
            vf result = sum[m][j];
            if (kind == INT8) result = v_mul(result, v_load(w->scale + column));
            if (left >= VL) {
                if (w->bias) result = v_add(result, v_load(w->bias + column));
                v_store(to, add ? v_add(v_load(to), result) : result);
                continue;
            }
            v_store(part, result);
            for (int i = 0; i < left; i++) {
                float one = w->bias ? part[i] + w->bias[column + i] : part[i];
                to[i] = add ? to[i] + one : one;
            }
        }
    }
}

#if MOST_ROWS == 8
#define MORE(kind)                                                                                                    \
    case 5: block(kind, 5, 1, w, p, from, to, stride, add); break;                                                    \
    case 6: block(kind, 6, 1, w, p, from, to, stride, add); break;                                                    \
    case 7: block(kind, 7, 1, w, p, from, to, stride, add); break;                                                    \
    case 8: block(kind, 8, 1, w, p, from, to, stride, add); break;
#else
#define MORE(kind)
#endif

#define ROWS_OF(kind)                                                                                                 \
    static void run_##kind(const Linear *w, const float *x, int64_t rows, float *y, int64_t stride, int add) {        \
        const int64_t panels = (w->out + PANEL - 1) / PANEL;                                                          \
        int64_t p = 0;                                                                                                \
        if (rows == 1)                                                                                                \
            for (; p + 4 <= panels; p += 4) block(kind, 1, 4, w, p, x, y, stride, add);                               \
        if (rows == 2)                                                                                                \
            for (; p + 2 <= panels; p += 2) block(kind, 2, 2, w, p, x, y, stride, add);                               \
        for (; p < panels; p++)                                                                                       \
            for (int64_t m = 0; m < rows;) {                                                                          \
                const float *from = x + m * w->in;                                                                    \
                float *to = y + m * stride;                                                                           \
                int64_t left = rows - m;                                                                              \
                int64_t some = left <= MOST_ROWS ? left : left < 2 * MOST_ROWS ? (left + 1) / 2 : MOST_ROWS;          \
                switch (some) {                                                                                       \
                case 1: block(kind, 1, 1, w, p, from, to, stride, add); break;                                        \
                case 2: block(kind, 2, 1, w, p, from, to, stride, add); break;                                        \
                case 3: block(kind, 3, 1, w, p, from, to, stride, add); break;                                        \
                case 4: block(kind, 4, 1, w, p, from, to, stride, add); break;                                        \
                MORE(kind)                                                                                            \
                }                                                                                                     \
                m += some;                                                                                            \
            }                                                                                                         \
    }
ROWS_OF(FLOAT32)
ROWS_OF(FLOAT16)
ROWS_OF(INT8)

void linear_run(const Linear *w, const float *x, int64_t rows, float *y, int64_t stride, int add) {
    switch (w->kind) {
    case FLOAT32: run_FLOAT32(w, x, rows, y, stride, add); break;
    case FLOAT16: run_FLOAT16(w, x, rows, y, stride, add); break;
    default: run_INT8(w, x, rows, y, stride, add);
    }
}

void linear_panel(const Linear *w, int64_t panel, const float *x, float *y) {
    Linear one = *w; /* of which this panel is the first */
    const int64_t size = (int64_t)w->in * PANEL * (w->kind == FLOAT32 ? 4 : w->kind == FLOAT16 ? 2 : 1);
    const int64_t left = w->out - panel * PANEL;
    one.panels = (const char *)w->panels + panel * size;
    one.out = (int32_t)(left < PANEL ? left : PANEL);
    if (w->scale) one.scale = w->scale + panel * PANEL;
    if (w->bias) one.bias = w->bias + panel * PANEL;
    linear_run(&one, x, 1, y, one.out, 0);
}
