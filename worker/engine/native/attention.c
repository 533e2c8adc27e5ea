// Attention over a cache of keys and values, each query at its own length.
//
// Every key and value is read once, where it lies; torch's products would read all rows up to the longest,
// and copy a cache with holes. Softmax is taken block by block with a running maximum (Milakov and Gimelshein
// 2018), so scratch memory does not grow with the length. A query's result depends on nothing but itself and
// what it reads: not on the batch, nor on the threads.
#include "attention.h"

// A block of keys or values, as float32, fits the first cache of a core. Of a SHORT history's keys and values
// there is room for a second one's in the second cache.
enum { BLOCK = 32, SHORT = 3 * BLOCK };

typedef struct {
  floats query[MAX_HEAD_DIM / LANES], output[MAX_HEAD_DIM / LANES];
  float weights[BLOCK], maximum, total;
} state;

// Elements as float32: where they lie, or converted into `room`.
INLINED const float* as_float32(const void* elements, int64_t index, int64_t count, int64_t is_bfloat16,
                                float* room) {
  if (!is_bfloat16) return element(elements, index, 0);
  for (int64_t i = 0; i < count; i += LANES) *(floats*)(room + i) = load(elements, index + i, 1);
  return room;
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
INLINED void weigh(state* s, const float* keys, int64_t count, int64_t parts, const upcoming* soon) {
  float highest = s->maximum;
  for (int64_t t = 0; t < count; t++) {
    fetch(soon, t, t + 1);
    floats products = {0};
    for (int64_t i = 0; i < parts; i++)
      products += s->query[i] * *(const floats*)(keys + (t * parts + i) * LANES);
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
INLINED void mix(state* s, const float* values, int64_t count, int64_t parts, const upcoming* soon) {
  floats output[MAX_HEAD_DIM / LANES];
  for (int64_t i = 0; i < parts; i++) output[i] = s->output[i];
  for (int64_t t = 0; t < count; t++) {
    fetch(soon, t, t + 1);
    const float weight = s->weights[t];
    for (int64_t i = 0; i < parts; i++)
      output[i] += weight * *(const floats*)(values + (t * parts + i) * LANES);
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
  float room[BLOCK * MAX_HEAD_DIM];
  state states[MAX_QUERIES];
  for (int64_t q = 0; q < count; q++) {
    for (int64_t i = 0; i < parts; i++) {
      states[q].query[i] = *(const floats*)(queries[q].values + i * LANES);
      states[q].output[i] = (floats){0};
    }
    states[q].maximum = -INFINITY;
    states[q].total = 0;
  }
  const int64_t token_bytes = head_dim * (is_bfloat16 ? 2 : 4);
  const int64_t end = (read->length + BLOCK - 1) / BLOCK * BLOCK, ahead = end <= SHORT ? end : BLOCK;
  const upcoming nothing = {0};
  for (int64_t start = 0; start < read->length; start += BLOCK) {
    const int64_t tokens = within(read->length, start);
    const history* following = start + ahead < end ? read : next;
    const int64_t from = start + ahead < end ? start + ahead : start + ahead - end;
    const int64_t bytes = within(following->length, from) * token_bytes;
    const upcoming keys = {(const char*)following->keys + from * token_bytes, bytes, token_bytes};
    const upcoming values = {(const char*)following->values + from * token_bytes, bytes, token_bytes};
    const float* block = as_float32(read->keys, start * head_dim, tokens * head_dim, is_bfloat16, room);
    for (int64_t q = 0; q < count; q++) {
      const int64_t read_tokens = within(queries[q].length, start);
      if (read_tokens) weigh(&states[q], block, read_tokens, parts, q ? &nothing : &keys);
    }
    fetch(&keys, within(queries[0].length, start), BLOCK);
    block = as_float32(read->values, start * head_dim, tokens * head_dim, is_bfloat16, room);
    for (int64_t q = 0; q < count; q++)
      mix(&states[q], block, within(queries[q].length, start), parts, q ? &nothing : &values);
    fetch(&values, within(queries[0].length, start), BLOCK);
  }
  for (int64_t q = 0; q < count; q++)
    for (int64_t i = 0; i < parts; i++)
      store(states[q].output[i] / states[q].total, queries[q].output, i * LANES, is_bfloat16);
}

void attend_together(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                     const history* read, const history* next) {
  switch (head_dim) {
    case 64: return attend_with(64, is_bfloat16, queries, count, read, next);
    case 128: return attend_with(128, is_bfloat16, queries, count, read, next);
    default: return attend_with(head_dim, is_bfloat16, queries, count, read, next);
  }
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
  if (row == s->rows) return (history){0};
  const int64_t at = row * s->row_stride + kv_head * s->head_stride;
  return (history){element(keys, at, s->is_bfloat16), element(values, at, s->is_bfloat16), lengths[row]};
}

// One query per row, for models whose other layers are torch's.
//
// asked, output: [rows, kv_heads * group, head_dim]. lengths: how many tokens each row reads.
void attend(const shape* s, const void* asked, const void* keys, const void* values, const int32_t* lengths,
            void* output, int64_t threads) {
#pragma omp parallel for schedule(dynamic, ITEMS) num_threads(threads)
  for (int64_t item = 0; item < s->rows * s->kv_heads; item++) {
    float scaled[MAX_QUERIES * MAX_HEAD_DIM];
    query queries[MAX_QUERIES];
    const history read = history_of(s, keys, values, lengths, item),
                  next = history_of(s, keys, values, lengths, item + 1);
    for (int64_t g = 0; g < s->group; g++) {
      const int64_t at = (item * s->group + g) * s->head_dim;
      for (int64_t i = 0; i < s->head_dim; i += LANES)
        *(floats*)(scaled + g * s->head_dim + i) = load(asked, at + i, s->is_bfloat16) * s->scale;
      queries[g] = (query){scaled + g * s->head_dim, read.length, element(output, at, s->is_bfloat16)};
    }
    attend_together(s->head_dim, s->is_bfloat16, queries, s->group, &read, &next);
  }
}
