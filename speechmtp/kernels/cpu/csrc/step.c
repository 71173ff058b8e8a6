/* What Python calls: a trunk's step, its unembedding, and argmax tokens. */
#include <float.h>
#include <string.h>

#include "decoder.h"
#include "screen.h"
#include "vec.h"

#define REMEMBERED 32 /* steps at a time */

typedef struct {
    int32_t width, count;
    const Layer *layers;
    Norm norm; /* behind the last layer */
    Rotary rotary;
} Decoder;

/* The layers that heads read besides the last one. */
typedef struct {
    int32_t width, count;
    const Norm *norms;
    Linear mix; /* from all of them side by side */
} Reader;

int speechmtp_cpu_panel(void) { return 2 * VL; }

int64_t speechmtp_cpu_extend_work(const Decoder *decoder, int64_t entries, int64_t seen) {
    int64_t most = 0;
    for (int32_t i = 0; i < decoder->count; i++) {
        const int64_t one = layer_work(&decoder->layers[i], entries, seen);
        most = one > most ? one : most;
    }
    return entries * decoder->width + most;
}

/* Copy entries from x [rows, queries, width] to y, where those of all rows stand one behind the other. */
static void pack(const Entries *entries, int64_t width, const float *x, float *y) {
    for (int64_t row = 0; row < entries->rows; row++) {
        const int64_t count = count_of(entries, row);
        memcpy(y, x + row * entries->queries * width, sizeof(float) * count * width);
        y += count * width;
    }
}

/* Copy them back into y [rows, queries, stride], `width` numbers each, with zeros for those that are not there. */
static void unpack(const Entries *entries, int64_t width, int64_t stride, const float *x, float *y) {
    for (int64_t row = 0; row < entries->rows; row++)
        for (int64_t i = 0; i < entries->queries; i++, y += stride) {
            if (i >= count_of(entries, row)) {
                memset(y, 0, sizeof(float) * width);
                continue;
            }
            memcpy(y, x, sizeof(float) * width);
            x += width;
        }
}

/* Run all layers over embeddings x [rows, queries, width]. `slots` and `memory` have one item a layer. Writes the final
   states `hidden` [rows, queries, width] and the outputs of the layers `taps` (0: x), [rows, queries, count, width].
   Returns 0, or 1 for a position outside the table, when nothing was done. */
int speechmtp_cpu_extend(const Decoder *decoder, const Entries *entries, const Slots *slots, const Slots *memory,
                         const float *x, float *hidden, const int32_t *taps, int32_t tap_count, float *tapped,
                         float *work) {
    const int64_t all = count_all(entries), width = decoder->width;
    if (decoder->rotary.positions)
        for (int64_t i = 0; i < entries->rows * entries->queries; i++)
            if (entries->positions[i] < 0 || entries->positions[i] >= decoder->rotary.positions) return 1;
    float *stream = work;
    work += all * width;
    pack(entries, width, x, stream);
    for (int32_t number = 0; number <= decoder->count; number++) {
        if (number)
            layer_run(&decoder->layers[number - 1], &decoder->rotary, entries, &slots[number - 1],
                      memory ? &memory[number - 1] : NULL, stream, work);
        for (int32_t tap = 0; tap < tap_count; tap++)
            if (taps[tap] == number) unpack(entries, width, tap_count * width, stream, tapped + tap * width);
    }
    norm_run(&decoder->norm, stream, all, stream);
    unpack(entries, width, width, stream, hidden);
    return 0;
}

int64_t speechmtp_cpu_remember_work(const Attention *attention) { return REMEMBERED * attention->memory.out; }

/* Keys and values [rows, heads, steps, dim] of encoder outputs x [rows, steps, in], the first `sizes` of each row. */
void speechmtp_cpu_remember(const Attention *attention, const float *x, int64_t rows, int64_t steps,
                            const int64_t *sizes, float *keys, float *values, float *work) {
    const int64_t dim = attention->dim, heads = attention->kv_heads, both = 2 * heads * dim;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t first = 0; first < sizes[row]; first += REMEMBERED) {
            const int64_t count = sizes[row] - first < REMEMBERED ? sizes[row] - first : REMEMBERED;
            linear_run(&attention->memory, x + (row * steps + first) * attention->memory.in, count, work, both, 0);
            for (int64_t step = 0; step < count; step++)
                for (int64_t head = 0; head < heads; head++) {
                    const int64_t to = ((row * heads + head) * steps + first + step) * dim;
                    const float *from = work + step * both + head * dim;
                    memcpy(keys + to, from, sizeof(float) * dim);
                    memcpy(values + to, from + heads * dim, sizeof(float) * dim);
                }
        }
}

void speechmtp_cpu_linear(const Linear *weights, const float *x, int64_t rows, float *y) {
    linear_run(weights, x, rows, y, weights->out, 0);
}

int64_t speechmtp_cpu_choose_work(const Linear *weights, int64_t rows) {
    const int64_t all = rows * weights->out, some = screen_work(weights, rows);
    return rows * weights->in + (all > some ? all : some);
}

/* The token `best` with the largest logit of each row of x [rows, in], the lowest if several are; logits of the `count`
   tokens `never` count as the lowest number, and NaN as less. With a `screen` (or NULL) most logits are not computed. */
static void choose(const Linear *weights, const Screen *screen, const float *x, int64_t rows, const int64_t *never,
                   int64_t count, int64_t *best, float *work) {
    const int64_t size = weights->out;
    if (screen && !count) {
        screen_run(screen, weights, x, rows, best, work);
        return;
    }
    linear_run(weights, x, rows, work, size, 0);
    for (int64_t row = 0; row < rows; row++) {
        float *logits = work + row * size;
        for (int64_t i = 0; i < count; i++)
            if (never[i] >= 0 && never[i] < size) logits[never[i]] = -FLT_MAX;
        best[row] = largest_of(logits, size);
    }
}

/* The same for rows in groups of `group`, of which the first `some` of each are asked for (NULL: all); 0 for others. */
void speechmtp_cpu_choose(const Linear *weights, const Screen *screen, const float *x, int64_t rows, int64_t group,
                          const int64_t *some, const int64_t *never, int64_t count, int64_t *best, float *work) {
    const int64_t in = weights->in;
    if (!some) {
        choose(weights, screen, x, rows, never, count, best, work);
        return;
    }
    float *packed = work;
    int64_t all = 0;
    for (int64_t first = 0, one = 0; first < rows; first += group, one++) {
        memcpy(packed + all * in, x + first * in, sizeof(float) * some[one] * in);
        all += some[one];
    }
    choose(weights, screen, packed, all, never, count, best, work + rows * in);
    for (int64_t one = rows / group - 1; one >= 0; one--) { /* from the end, so that nothing is written over */
        all -= some[one];
        memmove(best + one * group, best + all, sizeof(int64_t) * some[one]);
        memset(best + one * group + some[one], 0, sizeof(int64_t) * (group - some[one]));
    }
}

/* What chained heads take in of a call: of each row the entries `keep` [rows, keep_row] of the last
   layer's outputs, to which the other layers' are added through one matrix, and of the embeddings x that follow them;
   `taps` [rows, queries, count, width], `hidden` and `nexts` [rows, taken, width]. */
void speechmtp_cpu_fuse(const Reader *reader, int64_t rows, int64_t queries, int64_t taken, const int64_t *keep,
                        int64_t keep_row, const float *taps, const float *x, float *hidden, float *nexts, float *work) {
    const int64_t width = reader->width, count = reader->count;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < taken; i++) {
            const int64_t to = row * taken + i, next = i + 1 < taken ? i + 1 : i;
            const int64_t from = row * queries + keep[row * keep_row + i];
            const int64_t behind = row * queries + keep[row * keep_row + next];
            const float *read = taps + from * (count + 1) * width;
            memcpy(nexts + to * width, x + behind * width, sizeof(float) * width);
            memcpy(hidden + to * width, read + count * width, sizeof(float) * width);
            for (int64_t tap = 0; tap < count; tap++)
                norm_run(&reader->norms[tap], read + tap * width, 1, work + (to * count + tap) * width);
        }
    if (count) linear_run(&reader->mix, work, rows * taken, hidden, width, 1);
}
