#ifndef SPEECHMTP_LINEAR_H
#define SPEECHMTP_LINEAR_H

#include <stdint.h>

/* How weights are stored. Each gives one float32 value, which is what is multiplied. */
enum { FLOAT32 = 0, FLOAT16 = 1, INT8 = 2 };

/* y = x W^T + bias. `panels` holds W in panels of `speechmtp_cpu_panel()` outputs, [panels][in][panel], padded with
   zeros; `scale` and `bias` (or NULL) have one number an output, padded too. INT8: value = integer * scale. */
typedef struct {
    int32_t kind, in, out;
    const void *panels;
    const float *scale, *bias;
} Linear;

/* y [rows, out] with `stride` floats a row; if `add`, the result is added to y. Each number is one sum in the order of
   the inputs, whatever the number of rows. */
void linear_run(const Linear *w, const float *x, int64_t rows, float *y, int64_t stride, int add);

/* y [panel]: the outputs of one panel for one row. */
void linear_panel(const Linear *w, int64_t panel, const float *x, float *y);

#endif
