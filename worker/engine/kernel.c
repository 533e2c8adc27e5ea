// Attention of one query per row over a cache of keys and values, each row at its own length.
//
// Compiled when a worker starts (kernel.py). Every key and value is read once, where it lies; torch's products
// would read all rows up to the longest, and copy a cache with holes. Softmax is taken block by block with a
// running maximum (Milakov and Gimelshein 2018), so scratch memory does not grow with the length.
//
// Called without Python's lock. The threads are those of torch's own OpenMP.
#include <math.h>
#include <stdint.h>
#include <string.h>

// A block of keys or values, as float32, fits the first cache of a core.
enum { LANES = 16, BLOCK = 32, MAX_HEAD_DIM = 256, MAX_GROUP = 16 };

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

// group: query heads that share a head of keys and values. Strides, in elements, lead from row to row and from
// head to head of keys and values; a head's tokens follow each other without holes.
typedef struct {
  int64_t rows, kv_heads, group, head_dim, row_stride, head_stride, is_bfloat16;
  float scale;
} shape;

typedef struct {
  floats query[MAX_HEAD_DIM / LANES], output[MAX_HEAD_DIM / LANES];
  float weights[BLOCK], maximum, total;
} head;

static inline const void *at(const shape *s, const void *elements, int64_t index) {
  return (const char *)elements + index * (s->is_bfloat16 ? 2 : 4);
}

static inline floats from_bfloat16(const uint16_t *from) {
  return (floats)(__builtin_convertvector(*(const halves *)from, words) << 16);
}

// Elements as float32: where they lie, or converted into `room`.
static inline const float *as_float32(const shape *s, const void *elements, int64_t count, float *room) {
  if (!s->is_bfloat16) return elements;
  for (int64_t i = 0; i < count; i += LANES) *(floats *)(room + i) = from_bfloat16((const uint16_t *)elements + i);
  return room;
}

// To the nearest, ties to even, as torch rounds.
static inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return isnan(value) ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline float sum(floats values) {
  eight eights[2];
  memcpy(eights, &values, sizeof eights);
  eights[0] += eights[1];
  four fours[2];
  memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][1]) + (fours[0][2] + fours[0][3]);
}

// With a head_dim that the compiler knows, what is summed up stays in registers.
#define INLINED static inline __attribute__((always_inline))

// weights = exp(query · key - maximum), for a maximum that may rise; what came before is scaled down to it.
INLINED void weigh(head *h, const float *keys, int64_t count, int64_t head_dim) {
  const int64_t parts = head_dim / LANES;
  float highest = h->maximum, added = 0;
  for (int64_t t = 0; t < count; t++) {
    floats products = {0};
    for (int64_t i = 0; i < parts; i++) products += h->query[i] * *(const floats *)(keys + t * head_dim + i * LANES);
    h->weights[t] = sum(products);
    highest = h->weights[t] > highest ? h->weights[t] : highest;
  }
#pragma omp simd reduction(+ : added)
  for (int64_t t = 0; t < count; t++) {
    h->weights[t] = expf(h->weights[t] - highest);
    added += h->weights[t];
  }
  const float correction = expf(h->maximum - highest);
  for (int64_t i = 0; i < parts; i++) h->output[i] *= correction;
  h->total = h->total * correction + added;
  h->maximum = highest;
}

// output += weights · values
INLINED void mix(head *h, const float *values, int64_t count, int64_t head_dim) {
  const int64_t parts = head_dim / LANES;
  floats output[MAX_HEAD_DIM / LANES];
  for (int64_t i = 0; i < parts; i++) output[i] = h->output[i];
  for (int64_t t = 0; t < count; t++) {
    const float weight = h->weights[t];
    for (int64_t i = 0; i < parts; i++) output[i] += weight * *(const floats *)(values + t * head_dim + i * LANES);
  }
  for (int64_t i = 0; i < parts; i++) h->output[i] = output[i];
}

// One head of keys and values, and the query heads that share it.
INLINED void attend_group(const shape *s, int64_t head_dim, const void *query, const void *keys, const void *values,
                          int64_t length, void *output) {
  const int64_t parts = head_dim / LANES;
  float room[BLOCK * MAX_HEAD_DIM];
  head heads[MAX_GROUP];
  for (int64_t g = 0; g < s->group; g++) {
    const float *asked = as_float32(s, at(s, query, g * head_dim), head_dim, room);
    for (int64_t i = 0; i < parts; i++) {
      heads[g].query[i] = *(const floats *)(asked + i * LANES) * s->scale;
      heads[g].output[i] = (floats){0};
    }
    heads[g].maximum = -INFINITY;
    heads[g].total = 0;
  }
  for (int64_t start = 0; start < length; start += BLOCK) {
    const int64_t count = length - start < BLOCK ? length - start : BLOCK;
    const float *block = as_float32(s, at(s, keys, start * head_dim), count * head_dim, room);
    for (int64_t g = 0; g < s->group; g++) weigh(&heads[g], block, count, head_dim);
    block = as_float32(s, at(s, values, start * head_dim), count * head_dim, room);
    for (int64_t g = 0; g < s->group; g++) mix(&heads[g], block, count, head_dim);
  }
  for (int64_t g = 0; g < s->group; g++) {
    for (int64_t i = 0; i < head_dim; i++) {
      const float value = heads[g].output[i / LANES][i % LANES] / heads[g].total;
      if (s->is_bfloat16) ((uint16_t *)output)[g * head_dim + i] = to_bfloat16(value);
      else ((float *)output)[g * head_dim + i] = value;
    }
  }
}

static void attend_group_of_any(const shape *s, const void *query, const void *keys, const void *values,
                                int64_t length, void *output) {
  switch (s->head_dim) {
    case 64: return attend_group(s, 64, query, keys, values, length, output);
    case 128: return attend_group(s, 128, query, keys, values, length, output);
    default: return attend_group(s, s->head_dim, query, keys, values, length, output);
  }
}

// query, output: [rows, kv_heads * group, head_dim]. lengths: how many tokens each row reads, at least one.
void attend(const shape *s, const void *query, const void *keys, const void *values, const int32_t *lengths,
            void *output) {
#pragma omp parallel for collapse(2) schedule(dynamic, 4)
  for (int64_t row = 0; row < s->rows; row++) {
    for (int64_t kv_head = 0; kv_head < s->kv_heads; kv_head++) {
      const int64_t cached = row * s->row_stride + kv_head * s->head_stride;
      const int64_t asked = (row * s->kv_heads + kv_head) * s->group * s->head_dim;
      attend_group_of_any(s, at(s, query, asked), at(s, keys, cached), at(s, values, cached), lengths[row],
                          (void *)at(s, output, asked));
    }
  }
}
