#ifndef SPEECHMTP_SCREEN_H
#define SPEECHMTP_SCREEN_H

#include "linear.h"

/* The weights of a linear layer as 8-bit integers, [panels][inputs / 4][panel][4]; the inputs are padded with zeros to a
   multiple of four. Per output: the `scale` of its integers, `offset`: 64 times their sum, `sizes`: the sum of its
   weights' sizes, `errors`: the largest difference of a weight from its integer times the scale. All padded with
   zeros to whole panels, `offset` so that padding is never chosen. */
typedef struct {
    const int8_t *panels;
    const float *scale, *offset, *sizes, *errors;
} Screen;

int64_t screen_work(const Linear *w, int64_t rows);

/* The output with the largest number of each row of x [rows, in], the first of equals. */
void screen_run(const Screen *screen, const Linear *w, const float *x, int64_t rows, int64_t *best, float *work);

#endif
