// Attention over a cache of keys and values. Each query has its own length.
//
// Every key and value is read once, in place. torch's products would read all rows up to the longest length,
// and copy a cache with gaps. Softmax is computed block by block with a running maximum (Milakov and
// Gimelshein 2018), so scratch memory does not grow with the length. A query's result depends only on the
// query, the keys and the values, not on the batch or the threads.
#include "attention.h"

#include <omp.h>

// BLOCK: how many tokens a block of the softmax has. SHORT: with a history of up to this many tokens, the
// second-level cache has room for the next history, too.
enum { BLOCK = 32, SHORT = 3 * BLOCK };

// The vectors of a head: PARTS vectors for each WIDE numbers. query, output: in the order of `read_token`.
typedef floats head_vectors[MAX_HEAD_DIM / LANES];

typedef struct {
  head_vectors query, output;
  float weights[BLOCK], maximum, total;
} state;

// Reads a token's key or value as float32: `vectors` of its vectors, from `first` on.
//
// In each 2 * WIDE numbers of bfloat16, those with even indices come first, then those with odd ones. This
// order needs no shuffle.
INLINED void read_token(const void* states, int64_t token, int64_t head_dim, int64_t is_bfloat16,
                        int64_t first, int64_t vectors, floats* to) {
  const void* from = element(states, token * head_dim, is_bfloat16);
  const int64_t paired = is_bfloat16 ? head_dim / (2 * WIDE) * 2 * PARTS : 0;
  for (int64_t i = 0; i < vectors; i++) {
    const int64_t at = first + i;
    if (at >= paired) {
      to[i] = load(from, at * LANES, is_bfloat16);
    } else {
      const int64_t pair = at / (2 * PARTS), part = at % PARTS, is_odd = at / PARTS % 2;
      const words both = *(const words*)element(from, pair * 2 * WIDE + part * 2 * LANES, 1);
      to[i] = (floats)(is_odd ? both & 0xffff0000 : both << 16);
    }
  }
}

// Reorders a head's numbers as `read_token` does.
INLINED void separate(floats* values, int64_t head_dim, int64_t is_bfloat16) {
  for (int64_t i = 0; is_bfloat16 && i + 2 * WIDE <= head_dim; i += 2 * WIDE) {
    floats* block = values + i / LANES;
    pairs both[PARTS];
    memcpy(both, block, sizeof both);
    for (int64_t p = 0; p < PARTS; p++) {
      block[p] = (floats) __builtin_convertvector(both[p], words);
      block[PARTS + p] = (floats) __builtin_convertvector(both[p] >> 32, words);
    }
  }
}

// Restores the usual order.
INLINED void rejoin(floats* values, int64_t head_dim, int64_t is_bfloat16) {
  for (int64_t i = 0; is_bfloat16 && i + 2 * WIDE <= head_dim; i += 2 * WIDE) {
    floats* block = values + i / LANES;
    pairs both[PARTS];
    for (int64_t p = 0; p < PARTS; p++)
      both[p] = __builtin_convertvector((words)block[p], pairs) |
                __builtin_convertvector((words)block[PARTS + p], pairs) << 32;
    memcpy(block, both, sizeof both);
  }
}

// Memory that will be read soon. With each token that is read, one token of it is fetched, so that the load
// on memory is even.
typedef struct {
  const char* from;
  int64_t bytes, token_bytes;
} upcoming;

INLINED void fetch(const upcoming* soon, int64_t token, int64_t end) {
  for (int64_t at = token * soon->token_bytes; at < end * soon->token_bytes && at < soon->bytes; at += 64)
    __builtin_prefetch(soon->from + at, 0, 2);
}

// Computes a block's weights, exp(query · key - maximum). If the maximum rises, earlier sums are scaled down.
INLINED void weigh(state* s, const void* keys, int64_t count, int64_t head_dim, int64_t is_bfloat16,
                   const upcoming* soon) {
  const int64_t vectors = head_dim / LANES;
  float highest = s->maximum;
  for (int64_t t = 0; t < count; t++) {
    fetch(soon, t, t + 1);
    head_vectors key;
    wide products = {0};
    read_token(keys, t, head_dim, is_bfloat16, 0, vectors, key);
    for (int64_t i = 0; i < vectors; i++)
      products.part[i % PARTS] = fma_of(s->query[i], key[i], products.part[i % PARTS]);
    s->weights[t] = sum(products);
    highest = s->weights[t] > highest ? s->weights[t] : highest;
  }
  for (int64_t t = count; t < BLOCK; t++) s->weights[t] = -INFINITY;
  wide added = {0};
  for (int64_t t = 0; t < BLOCK; t += LANES) {
    const floats weights = exp_of(*(floats*)(s->weights + t) - highest);
    *(floats*)(s->weights + t) = weights;
    added.part[t / LANES % PARTS] += weights;
  }
  const float correction = exp_of_one(s->maximum - highest);
  for (int64_t i = 0; i < vectors; i++) s->output[i] *= correction;
  s->total = __builtin_fmaf(s->total, correction, sum(added));
  s->maximum = highest;
}

// Adds weights · values to the output, SLICE vectors at a time, which fit in registers.
INLINED void mix(state* s, const void* values, int64_t count, int64_t head_dim, int64_t is_bfloat16,
                 const upcoming* soon) {
  const int64_t vectors = head_dim / LANES;
  for (int64_t first = 0; first < vectors; first += SLICE) {
    const int64_t width = vectors - first < SLICE ? vectors - first : SLICE;
    floats output[SLICE];
    for (int64_t i = 0; i < width; i++) output[i] = s->output[first + i];
    for (int64_t t = 0; t < count; t++) {
      if (!first) fetch(soon, t, t + 1);
      const floats weight = all_of(s->weights[t]);
      floats value[SLICE];
      read_token(values, t, head_dim, is_bfloat16, first, width, value);
      for (int64_t i = 0; i < width; i++) output[i] = fma_of(weight, value[i], output[i]);
    }
    for (int64_t i = 0; i < width; i++) s->output[first + i] = output[i];
  }
}

INLINED int64_t within(int64_t length, int64_t start) {
  const int64_t left = length - start;
  return left < 0 ? 0 : left < BLOCK ? left : BLOCK;
}

// If the compiler knows head_dim, it keeps sums in registers.
INLINED void attend_with(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                         const history* read, const history* next) {
  const int64_t vectors = head_dim / LANES;
  state states[MAX_QUERIES];
  for (int64_t q = 0; q < count; q++) {
    for (int64_t i = 0; i < vectors; i++) {
      states[q].query[i] = *(const floats*)(queries[q].values + i * LANES);
      states[q].output[i] = (floats){0};
    }
    separate(states[q].query, head_dim, is_bfloat16);
    states[q].maximum = -INFINITY;
    states[q].total = 0;
  }
  const int64_t token_bytes = head_dim * (is_bfloat16 ? 2 : 4);
  const int64_t end = (read->length + BLOCK - 1) / BLOCK * BLOCK, ahead = end <= SHORT ? end : BLOCK;
  const upcoming nothing = {0};
  for (int64_t start = 0; start < read->length; start += BLOCK) {
    const history* following = start + ahead < end ? read : next;
    const int64_t from = start + ahead < end ? start + ahead : start + ahead - end;
    const int64_t bytes = within(following->length, from) * token_bytes;
    const upcoming keys = {(const char*)following->keys + from * token_bytes, bytes, token_bytes};
    const upcoming values = {(const char*)following->values + from * token_bytes, bytes, token_bytes};
    const void* block = element(read->keys, start * head_dim, is_bfloat16);
    for (int64_t q = 0; q < count; q++) {
      const int64_t read_tokens = within(queries[q].length, start);
      if (read_tokens) weigh(&states[q], block, read_tokens, head_dim, is_bfloat16, q ? &nothing : &keys);
    }
    fetch(&keys, within(queries[0].length, start), BLOCK);
    block = element(read->values, start * head_dim, is_bfloat16);
    for (int64_t q = 0; q < count; q++)
      mix(&states[q], block, within(queries[q].length, start), head_dim, is_bfloat16, q ? &nothing : &values);
    fetch(&values, within(queries[0].length, start), BLOCK);
  }
  for (int64_t q = 0; q < count; q++) {
    rejoin(states[q].output, head_dim, is_bfloat16);
    for (int64_t i = 0; i < vectors; i++)
      *(floats*)(queries[q].output + i * LANES) = states[q].output[i] / states[q].total;
  }
}

void attend_together(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                     const history* read, const history* next) {
#define CASE(n) \
  case n: return attend_with(n, is_bfloat16, queries, count, read, next);
  switch (head_dim) {
    CASE(64)
    CASE(80)
    CASE(96)
    CASE(128)
    CASE(256)
    default: return attend_with(head_dim, is_bfloat16, queries, count, read, next);
  }
#undef CASE
}

// group: how many query heads share a head of keys and values. row_stride, head_stride: from row to row and
// from head to head of keys and values, in elements.
typedef struct {
  int64_t rows, kv_heads, group, head_dim, row_stride, head_stride, is_bfloat16;
  float scale;
} shape;

static history history_of(const shape* s, const void* keys, const void* values, const int32_t* lengths,
                          int64_t item) {
  const int64_t row = item / s->kv_heads, kv_head = item % s->kv_heads;
  if (row >= s->rows) return (history){0};
  const int64_t at = row * s->row_stride + kv_head * s->head_stride;
  return (history){element(keys, at, s->is_bfloat16), element(values, at, s->is_bfloat16), lengths[row]};
}

// Computes attention of one query per row, for models that run with torch.
//
// asked, output: [rows, kv_heads * group, head_dim]. lengths: how many tokens each row reads.
void attend(const shape* s, const void* asked, const void* keys, const void* values, const int32_t* lengths,
            void* output, int64_t threads) {
#pragma omp parallel num_threads(threads)
  for (int64_t item = omp_get_thread_num(); item < s->rows * s->kv_heads; item += omp_get_num_threads()) {
    float scaled[MAX_QUERIES * MAX_HEAD_DIM], outputs[MAX_QUERIES * MAX_HEAD_DIM];
    query queries[MAX_QUERIES];
    const history read = history_of(s, keys, values, lengths, item),
                  next = history_of(s, keys, values, lengths, item + omp_get_num_threads());
    const int64_t first = item * s->group * s->head_dim, width = s->group * s->head_dim;
    for (int64_t i = 0; i < width; i += LANES)
      *(floats*)(scaled + i) = load(asked, first + i, s->is_bfloat16) * s->scale;
    for (int64_t g = 0; g < s->group; g++)
      queries[g] = (query){scaled + g * s->head_dim, read.length, outputs + g * s->head_dim};
    attend_together(s->head_dim, s->is_bfloat16, queries, s->group, &read, &next);
    for (int64_t i = 0; i < width; i += LANES)
      store(*(const floats*)(outputs + i), output, first + i, s->is_bfloat16);
  }
}
