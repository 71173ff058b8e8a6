/* What Python calls: a trunk's step, its unembedding, and argmax tokens. */
#include <math.h>
#include <string.h>

#include "decoder.h"
#include "vec.h"


typedef struct {
    int32_t width, count;
    const Layer *layers;
    Norm norm; /* behind the last layer */
    Rotary rotary;
} Decoder;


int speechmtp_cpu_panel(void) { return 2 * VL; }

int64_t speechmtp_cpu_extend_work(const Decoder *decoder, int64_t entries, int64_t seen) {
    int64_t most = 0;
    for (int32_t i = 0; i < decoder->count; i++) {
        const int64_t one = layer_work(&decoder->layers[i], entries, seen);
        most = one > most ? one : most;
    }
    return entries * decoder->width + most;
}

/* Run all layers over embeddings x [rows, queries, width]. `slots` and `memory` have one item a layer. Writes the final
   states `hidden` [rows, queries, width] and the outputs of the layers `taps` (0: x), [rows, queries, count, width].
   Returns 0, or 1 for a position outside the table, when nothing was done. */
int speechmtp_cpu_extend(const Decoder *decoder, const Entries *entries, const Slots *slots, const Slots *memory,
                         const float *x, float *hidden, const int32_t *taps, int32_t tap_count, float *tapped,
                         float *work) {
    const int64_t rows = entries->rows * entries->queries, width = decoder->width;
    if (decoder->rotary.positions)
        for (int64_t i = 0; i < rows; i++)
            if (entries->positions[i] < 0 || entries->positions[i] >= decoder->rotary.positions) return 1;
    float *stream = work;
    work += rows * width;
    memcpy(stream, x, sizeof(float) * rows * width);
    for (int32_t number = 0; number <= decoder->count; number++) {
        if (number)
            layer_run(&decoder->layers[number - 1], &decoder->rotary, entries, &slots[number - 1],
                      memory ? &memory[number - 1] : NULL, stream, work);
        for (int32_t tap = 0; tap < tap_count; tap++)
            for (int64_t row = 0; taps[tap] == number && row < rows; row++)
                memcpy(tapped + (row * tap_count + tap) * width, stream + row * width, sizeof(float) * width);
    }
    norm_run(&decoder->norm, stream, rows, hidden);
    return 0;
}

void speechmtp_cpu_linear(const Linear *weights, const float *x, int64_t rows, float *y) {
    linear_run(weights, x, rows, y, weights->out, 0);
}

/* The index of the largest of `size` numbers, the lowest if several are; NaN counts as the lowest number. */
void speechmtp_cpu_argmax(const float *x, int64_t rows, int64_t size, int64_t *best) {
    for (int64_t row = 0; row < rows; row++, x += size) {
        vf most = v_set(-INFINITY);
        int64_t i = 0;
        for (; i + VL <= size; i += VL) most = v_max(v_load(x + i), most);
        float top = v_top(most);
        for (; i < size; i++) top = x[i] > top ? x[i] : top;
        best[row] = 0;
        for (i = 0; i < size; i++)
            if (x[i] == top) {
                best[row] = i;
                break;
            }
    }
}
