/* A whole draft of chained heads (`heads/chain.py`, attention `ttt`, one shared layer) in one call. */
#include <math.h>
#include <string.h>

#include "decoder.h"
#include "vec.h"

typedef struct {
    int32_t width, embedding_first;
    Norm embedding_norm, hidden_norm, norm;
    Linear join;
    Layer layer;
    Linear unembedding;
    const int64_t *shortlist; /* token ids of the unembedding's outputs; NULL: all tokens */
    const float *embeddings;  /* [tokens, width] */
    Rotary rotary;
} Chain;

/* `entries` fresh entries of each row, `counts[b]` of them valid: `hidden` are their states and `nexts` the embeddings of
   the entries after them, [rows, entries, width]; the last one's is that of the token `base[b]`. `ahead`
   [rows, depth] are the positions of what follows them. A draft stops once in every row the confidence of a token
   (`product`: the product of all so far) was below `theta`. `hints` [rows, depth, width] are added to the embeddings of
   the base token and of those drafted after it. With `noise` [rows, depth, tokens] tokens are drawn: it is added to the
   logits, divided by `temperature`, of which the `top` largest stay (0: all). */
typedef struct {
    int64_t rows, entries, depth;
    const float *hidden, *nexts;
    const int64_t *positions, *counts, *lengths, *memory_lengths, *base, *ahead;
    const float *hints, *noise; /* NULL: none */
    int64_t tokens, top;
    float temperature, theta;
    int32_t product;
} Fresh;

/* y [rows, width]: the layer's inputs of embeddings and states. */
static void join(const Chain *chain, const float *embeddings, const float *states, int64_t rows, float *y, float *work) {
    const int64_t width = chain->width;
    float *both = work, *one = work + 2 * rows * width;
    for (int64_t half = 0; half < 2; half++) {
        const int embedding = chain->embedding_first == (half == 0);
        norm_run(embedding ? &chain->embedding_norm : &chain->hidden_norm, embedding ? embeddings : states, rows, one);
        for (int64_t row = 0; row < rows; row++)
            memcpy(both + (2 * row + half) * width, one + row * width, sizeof(float) * width);
    }
    linear_run(&chain->join, both, rows, y, width, 0);
}

/* The most probable of `size` tokens, the first of equals, and its probability. */
static int64_t best_of(const float *logits, int64_t size, float *confidence) {
    const int64_t best = largest_of(logits, size);
    const vf top = v_set(logits[best]);
    vf total = v_set(0.0f);
    int64_t i = 0;
    for (; i + VL <= size; i += VL) total = v_add(total, v_exp(v_sub(v_load(logits + i), top)));
    float sum = v_sum(total);
    for (; i < size; i++) sum += expf(logits[i] - logits[best]);
    *confidence = 1.0f / sum;
    return best;
}

/* The token of row `row` that the noise draws for level `depth`, and its probability. Divides the logits; `largest` has
   room for `top` numbers. */
static int64_t drawn_of(const Chain *chain, const Fresh *fresh, int64_t row, int64_t depth, float *logits,
                        float *largest, float *confidence) {
    const int64_t size = chain->unembedding.out, top = fresh->top < size ? fresh->top : 0;
    const float *noise = fresh->noise + (row * fresh->depth + depth - 1) * fresh->tokens;
    int64_t best = -1, held = 0;
    float highest = -INFINITY, sum = 0.0f, value = 0.0f;
    for (int64_t i = 0; i < size; i++) {
        logits[i] /= fresh->temperature;
        highest = logits[i] > highest ? logits[i] : highest;
        if (!top || (held == top && logits[i] <= largest[top - 1])) continue;
        int64_t place = held < top ? held++ : top - 1;
        for (; place > 0 && largest[place - 1] < logits[i]; place--) largest[place] = largest[place - 1];
        largest[place] = logits[i];
    }
    const float least = top ? largest[top - 1] : -INFINITY;
    for (int64_t i = 0; i < size; i++) {
        if (!(logits[i] >= least)) continue;
        const float own = logits[i] + noise[chain->shortlist ? chain->shortlist[i] : i];
        sum += expf(logits[i] - highest);
        if (best < 0 || own > value) best = i, value = own;
    }
    best = best < 0 ? 0 : best; /* of NaN */
    *confidence = expf(logits[best] - highest) / sum;
    return best;
}

/* x [width]: the embedding of a token of level `depth` - 1 (0: the base token), with its hint. */
static void embed(const Chain *chain, const Fresh *fresh, int64_t row, int64_t depth, int64_t token, float *x) {
    const int64_t width = chain->width;
    memcpy(x, chain->embeddings + token * width, sizeof(float) * width);
    if (!fresh->hints) return;
    const float *hint = fresh->hints + (row * fresh->depth + depth) * width;
    for (int64_t i = 0; i < width; i++) x[i] += hint[i];
}

int64_t speechmtp_cpu_chain_work(const Chain *chain, int64_t rows, int64_t entries, int64_t seen) {
    const int64_t all = rows * entries, width = chain->width;
    return all * 4 * width + rows * (2 * width + chain->unembedding.out + 4) + chain->unembedding.out +
           layer_work(&chain->layer, all, seen) + 64;
}

/* Draft `tokens` and `confidence` [rows, depth]; returns how many depths were drafted, or -1 for a position outside the
   table, when nothing was done. Keys are written behind each row's committed ones: those of the fresh entries, then
   those of the draft. */
int64_t speechmtp_cpu_chain(const Chain *chain, const Fresh *fresh, const Slots *slots, const Slots *memory,
                            int64_t *tokens, float *confidence, float *work) {
    const int64_t rows = fresh->rows, size = fresh->entries, width = chain->width, all = rows * size;
    for (int64_t i = 0; i < all; i++)
        if (fresh->positions[i] < 0 || fresh->positions[i] >= chain->rotary.positions) return -1;
    for (int64_t i = 0; i < rows * fresh->depth; i++)
        if (fresh->ahead[i] < 0 || fresh->ahead[i] >= chain->rotary.positions) return -1;
    int64_t *last = (int64_t *)work, *lengths = last + rows; /* 8 bytes each */
    float *z = work + 4 * rows, *embedded = z + rows * width, *logits = embedded + rows * width;
    float *largest = logits + rows * chain->unembedding.out, *x = largest + chain->unembedding.out;
    work = x + all * width; /* for `join`, which needs 3 [all, width], and for the layer */
    const Entries first = {rows, size, fresh->positions, fresh->lengths, fresh->memory_lengths, NULL, last, NULL};
    for (int64_t row = 0; row < rows; row++) {
        last[row] = fresh->counts[row] > 0 ? fresh->counts[row] - 1 : 0;
        embed(chain, fresh, row, 0, fresh->base[row], embedded + row * width);
    }
    memcpy(x, fresh->nexts, sizeof(float) * all * width);
    for (int64_t row = 0; row < rows; row++)
        memcpy(x + (row * size + last[row]) * width, embedded + row * width, sizeof(float) * width);
    join(chain, x, fresh->hidden, all, x, work);
    layer_run(&chain->layer, &chain->rotary, &first, slots, memory, x, work);
    memcpy(z, x, sizeof(float) * rows * width);
    int64_t positions[rows > 0 ? rows : 1];
    for (int64_t depth = 1;; depth++) {
        int sure = fresh->theta < 0.0f;
        norm_run(&chain->norm, z, rows, x);
        linear_run(&chain->unembedding, x, rows, logits, chain->unembedding.out, 0);
        for (int64_t row = 0; row < rows; row++) {
            const int64_t at = row * fresh->depth + depth - 1;
            float *own = logits + row * chain->unembedding.out;
            const int64_t best = fresh->noise ? drawn_of(chain, fresh, row, depth, own, largest, confidence + at)
                                              : best_of(own, chain->unembedding.out, confidence + at);
            tokens[at] = chain->shortlist ? chain->shortlist[best] : best;
            float whole = 1.0f;
            int reaches = 1;
            for (int64_t i = at - depth + 1; i <= at; i++) {
                whole *= confidence[i];
                reaches = reaches && (fresh->product ? whole : confidence[i]) >= fresh->theta;
            }
            sure = sure || reaches;
        }
        if (depth == fresh->depth || !sure) return depth;
        for (int64_t row = 0; row < rows; row++) {
            const int64_t token = tokens[row * fresh->depth + depth - 1];
            embed(chain, fresh, row, depth, token, embedded + row * width);
            positions[row] = fresh->ahead[row * fresh->depth + depth - 1];
            lengths[row] = fresh->lengths[row] + fresh->counts[row] + depth - 1;
        }
        const Entries next = {rows, 1, positions, lengths, fresh->memory_lengths, NULL, NULL, NULL};
        join(chain, embedded, z, rows, x, work);
        memcpy(z, x, sizeof(float) * rows * width);
        layer_run(&chain->layer, &chain->rotary, &next, slots, memory, z, work);
    }
}
