// Attention over a cache of keys and values, each query at its own length.
//
// Every key and value is read once, where it lies; torch's products would read all rows up to the longest,
// and copy a cache with holes. Softmax is taken block by block with a running maximum (Milakov and Gimelshein
// 2018), so scratch memory does not grow with the length. A query's result depends on nothing but itself and
// what it reads: not on the batch, nor on the threads.
#include "attention.h"

#include <omp.h>

// Softmax goes by blocks of so many tokens. Of a SHORT history's keys and values there is room for a second
// one's in the second cache.
enum { BLOCK = 32, SHORT = 3 * BLOCK };

// query, output: in the order of `read_token`.
typedef struct {
  floats query[MAX_HEAD_DIM / LANES], output[MAX_HEAD_DIM / LANES];
  float weights[BLOCK], maximum, total;
} state;

// The keys or values of a token, [head_dim], as float32. Of two vectors of bfloat16 come those elements with
// even numbers, then those with odd ones: so they need no shuffle.
INLINED void read_token(const void* states, int64_t token, int64_t parts, int64_t is_bfloat16, floats* to) {
  const void* from = element(states, token * parts * LANES, is_bfloat16);
  int64_t i = 0;
  for (; is_bfloat16 && i + 1 < parts; i += 2) {
    const words both = *(const words*)element(from, i * LANES, 1);
    to[i] = (floats)(both << 16);
    to[i + 1] = (floats)(both & 0xffff0000);
  }
  for (; i < parts; i++) to[i] = load(from, i * LANES, is_bfloat16);
}

// Brings a vector of head_dim into the order of `read_token`.
INLINED void separate(floats* values, int64_t parts, int64_t is_bfloat16) {
  for (int64_t i = 0; is_bfloat16 && i + 1 < parts; i += 2) {
    pairs both;
    memcpy(&both, values + i, sizeof both);
    values[i] = (floats) __builtin_convertvector(both, words);
    values[i + 1] = (floats) __builtin_convertvector(both >> 32, words);
  }
}

// Brings it back.
INLINED void rejoin(floats* values, int64_t parts, int64_t is_bfloat16) {
  for (int64_t i = 0; is_bfloat16 && i + 1 < parts; i += 2) {
    const pairs both = __builtin_convertvector((words)values[i], pairs) |
                       __builtin_convertvector((words)values[i + 1], pairs) << 32;
    memcpy(values + i, &both, sizeof both);
  }
}

// What will be read soon. Memory is asked for a token of it with each token that is read now: it works
// evenly, and so does the processor.
typedef struct {
  const char* from;
  int64_t bytes, token_bytes;
} upcoming;

INLINED void fetch(const upcoming* soon, int64_t token, int64_t end) {
  for (int64_t at = token * soon->token_bytes; at < end * soon->token_bytes && at < soon->bytes; at += 64)
    __builtin_prefetch(soon->from + at, 0, 2);
}

// weights = exp(query · key - maximum), for a maximum that may rise; what came before is scaled down to it.
INLINED void weigh(state* s, const void* keys, int64_t count, int64_t parts, int64_t is_bfloat16,
                   const upcoming* soon) {
  float highest = s->maximum;
  for (int64_t t = 0; t < count; t++) {
    fetch(soon, t, t + 1);
    floats key[MAX_HEAD_DIM / LANES], products = {0};
    read_token(keys, t, parts, is_bfloat16, key);
    for (int64_t i = 0; i < parts; i++) products += s->query[i] * key[i];
    s->weights[t] = sum(products);
    highest = s->weights[t] > highest ? s->weights[t] : highest;
  }
  for (int64_t t = count; t < BLOCK; t++) s->weights[t] = -INFINITY;
  floats added = {0};
  for (int64_t t = 0; t < BLOCK; t += LANES) {
    const floats weights = exp_of(*(floats*)(s->weights + t) - highest);
    *(floats*)(s->weights + t) = weights;
    added += weights;
  }
  const float correction = expf(s->maximum - highest);
  for (int64_t i = 0; i < parts; i++) s->output[i] *= correction;
  s->total = s->total * correction + sum(added);
  s->maximum = highest;
}

// output += weights · values
INLINED void mix(state* s, const void* values, int64_t count, int64_t parts, int64_t is_bfloat16,
                 const upcoming* soon) {
  floats output[MAX_HEAD_DIM / LANES];
  for (int64_t i = 0; i < parts; i++) output[i] = s->output[i];
  for (int64_t t = 0; t < count; t++) {
    fetch(soon, t, t + 1);
    const float weight = s->weights[t];
    floats value[MAX_HEAD_DIM / LANES];
    read_token(values, t, parts, is_bfloat16, value);
    for (int64_t i = 0; i < parts; i++) output[i] += weight * value[i];
  }
  for (int64_t i = 0; i < parts; i++) s->output[i] = output[i];
}

INLINED int64_t within(int64_t length, int64_t start) {
  const int64_t left = length - start;
  return left < 0 ? 0 : left < BLOCK ? left : BLOCK;
}

// With a head_dim that the compiler knows, what is summed up stays in registers.
INLINED void attend_with(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                         const history* read, const history* next) {
  const int64_t parts = head_dim / LANES;
  state states[MAX_QUERIES];
  for (int64_t q = 0; q < count; q++) {
    for (int64_t i = 0; i < parts; i++) {
      states[q].query[i] = *(const floats*)(queries[q].values + i * LANES);
      states[q].output[i] = (floats){0};
    }
    separate(states[q].query, parts, is_bfloat16);
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
      if (read_tokens) weigh(&states[q], block, read_tokens, parts, is_bfloat16, q ? &nothing : &keys);
    }
    fetch(&keys, within(queries[0].length, start), BLOCK);
    block = element(read->values, start * head_dim, is_bfloat16);
    for (int64_t q = 0; q < count; q++)
      mix(&states[q], block, within(queries[q].length, start), parts, is_bfloat16, q ? &nothing : &values);
    fetch(&values, within(queries[0].length, start), BLOCK);
  }
  for (int64_t q = 0; q < count; q++) {
    rejoin(states[q].output, parts, is_bfloat16);
    for (int64_t i = 0; i < parts; i++)
      store(states[q].output[i] / states[q].total, queries[q].output, i * LANES, is_bfloat16);
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

// group: query heads that share a head of keys and values. Strides, in elements, lead from row to row and
// from head to head of keys and values.
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

// One query per row, for models whose other layers are torch's.
//
// asked, output: [rows, kv_heads * group, head_dim]. lengths: how many tokens each row reads.
void attend(const shape* s, const void* asked, const void* keys, const void* values, const int32_t* lengths,
            void* output, int64_t threads) {
#pragma omp parallel num_threads(threads)
  for (int64_t item = omp_get_thread_num(); item < s->rows * s->kv_heads; item += omp_get_num_threads()) {
    float scaled[MAX_QUERIES * MAX_HEAD_DIM];
    query queries[MAX_QUERIES];
    const history read = history_of(s, keys, values, lengths, item),
                  next = history_of(s, keys, values, lengths, item + omp_get_num_threads());
    for (int64_t g = 0; g < s->group; g++) {
      const int64_t at = (item * s->group + g) * s->head_dim;
      for (int64_t i = 0; i < s->head_dim; i += LANES)
        *(floats*)(scaled + g * s->head_dim + i) = load(asked, at + i, s->is_bfloat16) * s->scale;
      queries[g] = (query){scaled + g * s->head_dim, read.length, element(output, at, s->is_bfloat16)};
    }
    attend_together(s->head_dim, s->is_bfloat16, queries, s->group, &read, &next);
  }
}
