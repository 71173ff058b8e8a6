#ifndef SPEECHMTP_DECODER_H
#define SPEECHMTP_DECODER_H

#include "linear.h"

enum { NO_NORM = 0, LAYER_NORM = 1, RMS_NORM = 2 };
enum { GELU = 0, GATED_SILU = 1 }; /* GATED_SILU: the inner layer gives values, then gates */

typedef struct {
    int32_t kind, size;
    const float *weight, *bias;
    float eps;
} Norm;

/* Attention behind `norm`. `in` gives queries, keys and values side by side, or only queries where keys and values come
   from a memory, by `memory`. `turned` numbers of each head are rotated: pairs of neighbours if `neighbours`, else halves. */
typedef struct {
    Norm norm, query_norm, key_norm;
    Linear in, out, memory;
    int32_t heads, kv_heads, dim, turned, neighbours;
    float scale;
} Attention;

typedef struct {
    Attention self, cross; /* cross.heads is 0 in layers without cross-attention */
    Norm norm;
    Linear inner, outer;
    int32_t activation;
} Layer;

/* Cosines and sines [positions, turned / 2]. */
typedef struct {
    const float *cosines, *sines;
    int64_t positions;
} Rotary;

/* Keys and values of one layer, [rows, heads, slots, dim], from the first row of a call on; strides in floats. */
typedef struct {
    float *keys, *values;
    int64_t row, head;
} Slots;

/* Entries of a call: `queries` behind the `lengths[b]` committed ones of each row. `ancestors` [rows, queries, queries]
   says which of the new entries each one sees (NULL: a chain). With `last`, only the entry `last[b]` of each row is
   computed, and of the others their keys and values. With `counts`, only the first `counts[b]` of each row are there:
   those of all rows stand one behind the other. */
typedef struct {
    int64_t rows, queries;
    const int64_t *positions, *lengths, *memory_lengths;
    const uint8_t *ancestors;
    const int64_t *last, *counts;
} Entries;

/* How many entries a row has, and all rows together. */
static inline int64_t count_of(const Entries *entries, int64_t row) {
    return entries->counts ? entries->counts[row] : entries->queries;
}
static inline int64_t count_all(const Entries *entries) {
    int64_t all = 0;
    for (int64_t row = 0; row < entries->rows; row++) all += count_of(entries, row);
    return all;
}

/* The index of the largest of some numbers, the first of equals; NaN is never the largest. */
int64_t largest_of(const float *x, int64_t size);

void norm_run(const Norm *norm, const float *x, int64_t rows, float *y);
/* Floats of working memory that `layer_run` needs for so many entries of all rows, each of which sees at most `seen`. */
int64_t layer_work(const Layer *layer, int64_t entries, int64_t seen);

/* Replace x [entries, width] by the layer's output; with `last` the first `rows` of x. */
void layer_run(const Layer *layer, const Rotary *rotary, const Entries *entries, const Slots *slots,
               const Slots *memory, float *x, float *work);

#endif
