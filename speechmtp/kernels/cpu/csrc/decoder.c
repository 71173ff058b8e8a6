/* One call of a decoder: all layers over some new entries of each row, on the slots of a ragged cache.

   What an entry gives depends on the entries that it sees alone, bit for bit: not on the number of rows, of entries in
   the call, or of drafted entries beside it. */
#include "decoder.h"

#include <math.h>

#include "vec.h"

static float sum_of(const float *x, int64_t size) {
    vf sum = v_set(0.0f);
    int64_t i = 0;
    for (; i + VL <= size; i += VL) sum = v_add(sum, v_load(x + i));
    float total = v_sum(sum);
    for (; i < size; i++) total += x[i];
    return total;
}

static float squares_of(const float *x, int64_t size, float mean) {
    vf sum = v_set(0.0f), middle = v_set(mean);
    int64_t i = 0;
    for (; i + VL <= size; i += VL) {
        vf apart = v_sub(v_load(x + i), middle);
        sum = v_fma(apart, apart, sum);
    }
    float total = v_sum(sum);
    for (; i < size; i++) total += (x[i] - mean) * (x[i] - mean);
    return total;
}

int64_t largest_of(const float *x, int64_t size) {
    vf most = v_set(-INFINITY);
    int64_t i = 0, best = 0;
    for (; i + VL <= size; i += VL) most = v_max(v_load(x + i), most);
    float top = v_top(most);
    for (; i < size; i++) top = x[i] > top ? x[i] : top;
    while (best < size && x[best] != top) best++;
    return best < size ? best : 0;
}

void norm_run(const Norm *norm, const float *x, int64_t rows, float *y) {
    const int64_t size = norm->size;
    for (int64_t row = 0; row < rows; row++, x += size, y += size) {
        if (norm->kind == NO_NORM) {
            memmove(y, x, sizeof(float) * size);
            continue;
        }
        const float mean = norm->kind == LAYER_NORM ? sum_of(x, size) / size : 0.0f;
        const float factor = 1.0f / sqrtf(squares_of(x, size, mean) / size + norm->eps);
        const vf middle = v_set(mean), times = v_set(factor);
        int64_t i = 0;
        for (; i + VL <= size; i += VL) {
            vf one = v_mul(v_sub(v_load(x + i), middle), times);
            if (norm->weight) one = v_mul(one, v_load(norm->weight + i));
            v_store(y + i, norm->bias ? v_add(one, v_load(norm->bias + i)) : one);
        }
        for (; i < size; i++) {
            float one = (x[i] - mean) * factor;
            if (norm->weight) one *= norm->weight[i];
            y[i] = norm->bias ? one + norm->bias[i] : one;
        }
    }
}

static void turn(const Attention *attention, const Rotary *rotary, int64_t position, float *head) {
    const int64_t half = attention->turned / 2;
    const float *cosines = rotary->cosines + position * half, *sines = rotary->sines + position * half;
    for (int64_t i = 0; i < half; i++) {
        float *a = attention->neighbours ? head + 2 * i : head + i;
        float *b = attention->neighbours ? a + 1 : a + half;
        const float one = *a, other = *b;
        *a = one * cosines[i] - other * sines[i];
        *b = other * cosines[i] + one * sines[i];
    }
}

/* Products of the query, whose end is `end`, with VL keys. */
INLINE vf products(int64_t dim, const float *query, vf end, const float *const *keys) {
    const int64_t whole = dim / VL;
    vf sum[VL];
    for (int i = 0; i < VL; i++) sum[i] = v_mul(v_load(query), v_load(keys[i]));
    for (int64_t j = 1; j < whole; j++) {
        const vf part = v_load(query + j * VL);
        for (int i = 0; i < VL; i++) sum[i] = v_fma(part, v_load(keys[i] + j * VL), sum[i]);
    }
    if (dim % VL)
        for (int i = 0; i < VL; i++) sum[i] = v_fma(end, v_load(keys[i] + dim - VL), sum[i]);
    return v_sums(sum);
}

#define PARTS 5 /* vectors of values that are summed at a time */

/* Add PARTS vectors of a value, from `first` on, each times `weight`; the last one ends with the value. */
INLINE void add_values(int64_t dim, int64_t first, float weight, const float *value, vf *sum) {
    const vf times = v_set(weight);
    for (int64_t j = 0; j < PARTS; j++) {
        const int64_t at = first + j * VL;
        if (at < dim) sum[j] = v_fma(times, v_load(value + (at + VL <= dim ? at : dim - VL)), sum[j]);
    }
}

/* Attention of one query over the first `count` keys and over those at the slots `more` [extra]. `dim` is a constant where
   it is inlined with one. */
INLINE void attend_dim(int64_t dim, float scale, const float *query, const float *keys, const float *values,
                       int64_t count, const int32_t *more, int64_t extra, float *scores, float *out) {
    const int64_t tail = dim % VL, visible = count + extra;
    float last[VL]; /* the query's end, 0 where the vector before has it already */
    for (int64_t i = 0; i < VL; i++) last[i] = i < VL - tail ? 0.0f : query[dim - VL + i];
    const vf end = v_load(last), times = v_set(scale);
    vf most = v_set(-INFINITY);
    for (int64_t first = 0; first < visible; first += VL) {
        const float *at[VL];
        if (first + VL <= count)
            for (int64_t i = 0; i < VL; i++) at[i] = keys + (first + i) * dim;
        else
            for (int64_t i = 0; i < VL; i++) {
                const int64_t one = first + i < visible ? first + i : visible - 1; /* the last one again at the end */
                at[i] = keys + (one < count ? one : more[one - count]) * dim;
            }
        const vf score = v_mul(products(dim, query, end, at), times);
        v_store(scores + first, score);
        most = v_max(score, most);
    }
    const vf top = v_set(v_top(most));
    for (int64_t i = visible; i % VL; i++) scores[i] = -INFINITY;
    vf total = v_set(0.0f);
    for (int64_t i = 0; i < visible; i += VL) {
        const vf one = v_exp(v_sub(v_load(scores + i), top));
        v_store(scores + i, one);
        total = v_add(total, one);
    }
    const float whole = v_sum(total);
    const vf share = v_set(whole > 0.0f ? 1.0f / whole : 0.0f); /* without a key: 0 */
    for (int64_t first = 0; first < dim; first += PARTS * VL) {
        vf even[PARTS], odd[PARTS]; /* of keys in turn */
        for (int j = 0; j < PARTS; j++) even[j] = odd[j] = v_set(0.0f);
        int64_t one = 0;
        for (; one + 2 <= count; one += 2) {
            add_values(dim, first, scores[one], values + one * dim, even);
            add_values(dim, first, scores[one + 1], values + (one + 1) * dim, odd);
        }
        for (; one < visible; one++)
            add_values(dim, first, scores[one], values + (one < count ? one : more[one - count]) * dim,
                       one % 2 ? odd : even);
        for (int64_t j = 0; j < PARTS; j++) {
            const int64_t at = first + j * VL;
            if (at < dim) v_store(out + (at + VL <= dim ? at : dim - VL), v_mul(v_add(even[j], odd[j]), share));
        }
    }
}

/* The same for heads that are narrower than a vector. */
static void attend_narrow(int64_t dim, float scale, const float *query, const float *keys, const float *values,
                          int64_t count, const int32_t *more, int64_t extra, float *scores, float *out) {
    float top = -INFINITY, total = 0.0f;
    for (int64_t one = 0; one < count + extra; one++) {
        const float *key = keys + (one < count ? one : more[one - count]) * dim;
        float score = 0.0f;
        for (int64_t i = 0; i < dim; i++) score += query[i] * key[i];
        scores[one] = score * scale;
        top = scores[one] > top ? scores[one] : top;
    }
    for (int64_t i = 0; i < dim; i++) out[i] = 0.0f;
    for (int64_t one = 0; one < count + extra; one++) {
        const float *value = values + (one < count ? one : more[one - count]) * dim;
        const float weight = expf(scores[one] - top);
        total += weight;
        for (int64_t i = 0; i < dim; i++) out[i] += weight * value[i];
    }
    for (int64_t i = 0; i < dim; i++) out[i] /= total > 0.0f ? total : 1.0f;
}

static void attend(int64_t dim, float scale, const float *query, const float *keys, const float *values, int64_t count,
                   const int32_t *more, int64_t extra, float *scores, float *out) {
    if (dim < VL) attend_narrow(dim, scale, query, keys, values, count, more, extra, scores, out);
    else if (dim == 36) attend_dim(36, scale, query, keys, values, count, more, extra, scores, out);
    else if (dim == 32) attend_dim(32, scale, query, keys, values, count, more, extra, scores, out);
    else if (dim == 64) attend_dim(64, scale, query, keys, values, count, more, extra, scores, out);
    else attend_dim(dim, scale, query, keys, values, count, more, extra, scores, out);
}

/* Turn the queries and keys of `joined` [entries, queries | keys | values] and write keys and values behind each row's
   committed ones. */
static void write_keys(const Attention *attention, const Rotary *rotary, const Entries *entries, const Slots *slots,
                       float *joined) {
    const int64_t dim = attention->dim, kv = attention->kv_heads;
    const int64_t first_key = attention->heads * dim, width = first_key + 2 * kv * dim;
    for (int64_t row = 0; row < entries->rows; row++)
        for (int64_t i = 0; i < count_of(entries, row); i++, joined += width) {
            const int64_t position = entries->positions[row * entries->queries + i];
            const int64_t slot = entries->lengths[row] + i;
            for (int64_t head = 0; head * dim < first_key; head++) {
                float *query = joined + head * dim;
                norm_run(&attention->query_norm, query, 1, query);
                if (attention->turned) turn(attention, rotary, position, query);
            }
            for (int64_t head = 0; head < kv; head++) {
                float *key = joined + first_key + head * dim;
                norm_run(&attention->key_norm, key, 1, key);
                if (attention->turned) turn(attention, rotary, position, key);
                const int64_t at = row * slots->row + head * slots->head + slot * dim;
                memcpy(slots->keys + at, key, sizeof(float) * dim);
                memcpy(slots->values + at, key + kv * dim, sizeof(float) * dim);
            }
        }
}

static void self_attention(const Attention *attention, const Rotary *rotary, const Entries *entries,
                           const Slots *slots, const float *normed, float *joined, float *mixed, float *scores) {
    const int64_t dim = attention->dim, heads = attention->heads, group = heads / attention->kv_heads;
    const int64_t queries = entries->queries;
    int32_t *more = (int32_t *)scores; /* slots of the ancestors */
    scores += queries;
    linear_run(&attention->in, normed, count_all(entries), joined, attention->in.out, 0);
    write_keys(attention, rotary, entries, slots, joined);
    int64_t first = 0; /* entry of the row */
    for (int64_t row = 0; row < entries->rows; first += count_of(entries, row), row++)
        for (int64_t i = entries->last ? entries->last[row] : 0; i < count_of(entries, row); i++) {
            const int64_t entry = first + i, to = entries->last ? row : entry, past = entries->lengths[row];
            int64_t extra = 0;
            for (int64_t j = 0; entries->ancestors && j < count_of(entries, row); j++)
                if (entries->ancestors[(row * queries + i) * queries + j]) more[extra++] = (int32_t)(past + j);
            for (int64_t head = 0; head < heads; head++) {
                const int64_t at = row * slots->row + head / group * slots->head;
                attend(dim, attention->scale, joined + entry * attention->in.out + head * dim, slots->keys + at,
                       slots->values + at, entries->ancestors ? past : past + i + 1, more, extra, scores,
                       mixed + (to * heads + head) * dim);
            }
            if (entries->last) break;
        }
}

static void cross_attention(const Attention *attention, const Entries *entries, const Slots *memory,
                            const float *normed, float *joined, float *mixed, float *scores) {
    const int64_t dim = attention->dim, heads = attention->heads, group = heads / attention->kv_heads;
    linear_run(&attention->in, normed, entries->last ? entries->rows : count_all(entries), joined, attention->in.out, 0);
    int64_t first = 0, count = 0; /* entries of the row */
    for (int64_t row = 0; row < entries->rows; first += count, row++) {
        count = entries->last ? 1 : count_of(entries, row);
        for (int64_t head = 0; head < heads; head++) {
            const int64_t at = row * memory->row + head / group * memory->head;
            for (int64_t i = 0; i < count; i++) {
                const int64_t entry = first + i;
                float *query = joined + (entry * heads + head) * dim;
                norm_run(&attention->query_norm, query, 1, query);
                attend(dim, attention->scale, query, memory->keys + at, memory->values + at,
                       entries->memory_lengths[row], NULL, 0, scores, mixed + (entry * heads + head) * dim);
            }
        }
    }
}

static void activate(const Layer *layer, float *inner, int64_t rows, int64_t size) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = inner + row * layer->inner.out;
        float *to = inner + row * size; /* never behind `from`: written after it was read */
        int64_t i = 0;
        if (layer->activation == GELU) {
            for (; i < size; i++) to[i] = 0.5f * from[i] * (1.0f + erff(from[i] * 0.70710678118654752f));
            continue;
        }
        const vf one = v_set(1.0f), zero = v_set(0.0f);
        for (; i + VL <= size; i += VL) {
            const vf gate = v_load(from + size + i);
            const vf open = v_div(gate, v_add(one, v_exp(v_sub(zero, gate))));
            v_store(to + i, v_mul(open, v_load(from + i)));
        }
        for (; i < size; i++) to[i] = from[size + i] / (1.0f + expf(-from[size + i])) * from[i];
    }
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t layer_work(const Layer *layer, int64_t entries, int64_t seen) {
    const int64_t wide = larger(layer->self.in.out, larger(layer->inner.out, layer->cross.in.out));
    const int64_t mixed = larger(layer->self.out.in, layer->cross.out.in);
    return entries * (layer->self.in.in + wide + mixed + 1) + seen + 4 * VL;
}

void layer_run(const Layer *layer, const Rotary *rotary, const Entries *entries, const Slots *slots,
               const Slots *memory, float *x, float *work) {
    const int64_t all = count_all(entries), width = layer->self.in.in;
    const int64_t wide = larger(layer->self.in.out, larger(layer->inner.out, layer->cross.in.out));
    float *normed = work, *joined = normed + all * width, *mixed = joined + all * wide;
    float *scores = mixed + all * larger(layer->self.out.in, layer->cross.out.in);
    norm_run(&layer->self.norm, x, all, normed);
    self_attention(&layer->self, rotary, entries, slots, normed, joined, mixed, scores);
    const int64_t rows = entries->last ? entries->rows : all;
    for (int64_t row = 0; entries->last && row < rows; row++)
        memmove(x + row * width, x + (row * entries->queries + entries->last[row]) * width, sizeof(float) * width);
    linear_run(&layer->self.out, mixed, rows, x, width, 1);
    if (layer->cross.heads) {
        norm_run(&layer->cross.norm, x, rows, normed);
        cross_attention(&layer->cross, entries, memory, normed, joined, mixed, scores);
        linear_run(&layer->cross.out, mixed, rows, x, width, 1);
    }
    norm_run(&layer->norm, x, rows, normed);
    linear_run(&layer->inner, normed, rows, joined, layer->inner.out, 0);
    activate(layer, joined, rows, layer->outer.in);
    linear_run(&layer->outer, joined, rows, x, width, 1);
}
