// Products of a batch of tokens with a linear layer's weights.
//
// Weights are stored in panels of PANEL outputs; the last panel is padded with zeros. For float32, a row of a
// panel has the weights of one input, [in][PANEL]. For bfloat16 and 8-bit integers it has those of two
// neighbouring inputs, [in / 2][PANEL][2], because instructions take both at once. A panel is read from front
// to end, once for each tile of up to TILE tokens, while the next panel is fetched.
//
// Each output is one sum in the order of the inputs, except that the second of two neighbouring bfloat16
// inputs is added first. The order does not depend on the number of tokens, the threads or the instruction
// set, so a token's result does not depend on the batch.
//
// 8-bit weights are multiplied as integers, with inputs that are rounded to 16-bit integers. That takes half
// as many instructions as float32, and the sums of a block are exact.
#pragma once

#include "vectors.h"

// BLOCK: how many inputs of a token share a scale. The sum of their products stays below half of 2^31.
enum { TILE = 6, BLOCK = 256, HIGHEST_INPUT = 32767 };

// The type of a model's weights. Everything else, with the cache, is bfloat16 for BFLOAT16 and float32 for
// the others.
typedef enum { FLOAT32, BFLOAT16, INT8 } weight_type;

// A linear layer with `in` inputs and `out` outputs; there is none if `out` is 0. bias, scales: [panels *
// PANEL]. bias may be NULL. scales multiply the outputs of 8-bit weights, and are NULL for other types.
typedef struct {
  int64_t out, in;
  const void* panels;
  const float *bias, *scales;
} linear;

// The sums of a tile of tokens and a panel of outputs, which stay in registers.
typedef floats tile[TILE][PANEL_VECTORS];

INLINED int64_t panels_of(const linear* l) { return (l->out + PANEL - 1) / PANEL; }

INLINED int64_t panel_bytes(const linear* l, int64_t type) {
  return l->in * PANEL * (type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1);
}

// Returns how many inputs a row of a panel has weights of.
INLINED int64_t row_inputs(int64_t type) { return type == FLOAT32 ? 1 : 2; }

// With bfloat16 weights, a product's inputs are bfloat16 if there is `dot2`; otherwise they are float32,
// rounded to bfloat16. With 8-bit weights, `round_block` turns them into blocks before they are multiplied.

INLINED int64_t has_narrow_inputs(int64_t type) { return HAS_DOT2 && type == BFLOAT16; }

INLINED void* input_at(const void* inputs, int64_t index, int64_t type) {
  return element(inputs, index, has_narrow_inputs(type));
}

INLINED void store_input(floats values, void* inputs, int64_t index, int64_t type) {
  if (type == BFLOAT16 && !HAS_DOT2) values = rounded_to_bfloat16(values);
  store(values, inputs, index, has_narrow_inputs(type));
}

INLINED int64_t input_bytes(int64_t type) { return has_narrow_inputs(type) ? 2 : 4; }

// Inputs as integers. The inputs are about scale * numbers.
typedef struct {
  float scale;
  int16_t numbers[BLOCK];
} block;

INLINED int64_t blocks_of(int64_t inputs) { return (inputs + BLOCK - 1) / BLOCK; }

// Rounds up to BLOCK inputs to the nearest integers. If one of them is not finite, no output will be finite.
static void round_block(const float* inputs, int64_t count, block* to) {
  const float smallest = 1e-30f;  // Smaller numbers count as zero, because their inverse may be infinite.
  floats sizes = {0}, differences = {0};
  for (int64_t i = 0; i < count; i += LANES) {
    const floats values = *(const floats*)(inputs + i), size = absolute(values);
    sizes = chosen(size > sizes, size, sizes);
    differences += values - values;  // Zero; NaN for values that are not finite.
  }
  float highest = 0, difference = 0;
  for (int64_t i = 0; i < LANES; i++) {
    highest = sizes[i] > highest ? sizes[i] : highest;
    difference += differences[i];
  }
  const int is_zero = highest < smallest;
  const float inverse = is_zero ? 0 : HIGHEST_INPUT / highest;
  to->scale = (is_zero ? 0 : highest / HIGHEST_INPUT) + difference;
  const floats rounding = all_of(12582912.0f);  // 1.5 * 2^23: adding it rounds to integers.
  for (int64_t i = 0; i < count; i += LANES) {
    const floats rounded = fma_of(*(const floats*)(inputs + i), all_of(inverse), rounding);
    *(halves*)(to->numbers + i) = narrowed((words)rounded);
  }
}

// Memory to fetch during a product. rate: how many cache lines to fetch in a step, times 2^16. Fetches are
// spread evenly over the steps, because bursts cost a tenth of the time.
typedef struct {
  const char* from;
  int64_t rate;
} ahead;

INLINED ahead ahead_of(const char* from, int64_t lines, int64_t steps) {
  return (ahead){from, ((lines << 16) + steps - 1) / steps};
}

// Fetches into the first-level cache at a low rate. At a high rate that would evict what the cache has, so it
// fetches into the second-level cache.
INLINED void fetch(const ahead* next, int64_t step) {
  const int64_t end = (step + 1) * next->rate >> 16;
  for (int64_t line = step * next->rate >> 16; line < end; line++) {
    if (next->rate <= 1 << 16)
      __builtin_prefetch(next->from + 64 * line, 0, 3);
    else
      __builtin_prefetch(next->from + 64 * line, 0, 2);
  }
}

#if HAS_DOT2
INLINED void multiply_pairs(const int64_t tokens, const uint16_t* inputs, int64_t stride,
                            const uint16_t* panel, int64_t in, const ahead* next, tile sums) {
  for (int64_t row = 0; row < in / 2; row++) {
    words weights[PANEL_VECTORS];
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      weights[v] = *(const words*)(panel + (row * PANEL_VECTORS + v) * 2 * LANES);
    fetch(next, row);
    for (int64_t t = 0; t < tokens; t++) {
      uint32_t both;
      memcpy(&both, inputs + t * stride + 2 * row, sizeof both);
      const words input = (words){0} + both;
      for (int64_t v = 0; v < PANEL_VECTORS; v++) sums[t][v] = dot2(sums[t][v], weights[v], input);
    }
  }
}
#endif

// Returns a vector of weights of one input. neighbour: which of the row's inputs.
INLINED floats weights_at(const void* row, int64_t vector, int64_t neighbour, int64_t type) {
  if (type == FLOAT32) return *(const floats*)((const float*)row + vector * LANES);
  const words both = *(const words*)((const uint16_t*)row + vector * 2 * LANES);
  return (floats)(neighbour ? upper_halves(both) : both << 16);
}

INLINED void multiply_singly(const int64_t tokens, const float* inputs, int64_t stride, const void* panel,
                             int64_t in, const int64_t type, const ahead* next, tile sums) {
  const int64_t neighbours = row_inputs(type);
  const char* at = panel;
  for (int64_t row = 0; row < in / neighbours; row++, at += PANEL * 4) {
    fetch(next, row);
    for (int64_t n = neighbours - 1; n >= 0; n--) {
      floats weights[PANEL_VECTORS];
      for (int64_t v = 0; v < PANEL_VECTORS; v++) weights[v] = weights_at(at, v, n, type);
      for (int64_t t = 0; t < tokens; t++) {
        const floats input = all_of(inputs[t * stride + row * neighbours + n]);
        for (int64_t v = 0; v < PANEL_VECTORS; v++) sums[t][v] = fma_of(weights[v], input, sums[t][v]);
      }
    }
  }
}

// Adds the products of a block of each token with its rows of a panel to `sums`. from: the first of these
// rows.
INLINED void multiply_block(const int64_t tokens, const block* inputs, int64_t stride, const int8_t* panel,
                            int64_t from, int64_t rows, const ahead* next, float* sums) {
  integers exact[TILE][PANEL_VECTORS];
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++) exact[t][v] = (integers){0};
  for (int64_t row = 0; row < rows; row++) {
    words weights[PANEL_VECTORS];
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      weights[v] = widened(panel + ((from + row) * PANEL_VECTORS + v) * 2 * LANES);
    fetch(next, from + row);
    for (int64_t t = 0; t < tokens; t++) {
      uint32_t both;
      memcpy(&both, inputs[t * stride].numbers + 2 * row, sizeof both);
      const words input = (words){0} + both;
      for (int64_t v = 0; v < PANEL_VECTORS; v++) exact[t][v] = dot_integers(exact[t][v], weights[v], input);
    }
  }
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++) {
    const floats scale = all_of(inputs[t * stride].scale);
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++) {
      floats* sum = (floats*)(sums + t * PANEL + v * LANES);
      *sum = fma_of(__builtin_convertvector(exact[t][v], floats), scale, *sum);
    }
  }
}

INLINED void multiply_integers(const int64_t tokens, const linear* l, int64_t j, const block* inputs,
                               int64_t stride, const ahead* next, float* sums) {
  const int64_t first = j * PANEL;
  const int8_t* panel = (const int8_t*)l->panels + j * panel_bytes(l, INT8);
  memset(sums, 0, tokens * PANEL * sizeof *sums);
  for (int64_t b = 0; b < blocks_of(l->in); b++) {
    const int64_t left = l->in - b * BLOCK, rows = (left < BLOCK ? left : BLOCK) / 2;
    multiply_block(tokens, inputs + b, stride, panel, b * BLOCK / 2, rows, next, sums);
  }
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t v = 0; v < PANEL_VECTORS; v++) {
      floats* sum = (floats*)(sums + t * PANEL + v * LANES);
      const floats bias = l->bias ? *(const floats*)(l->bias + first + v * LANES) : (floats){0};
      *sum = fma_of(*sum, *(const floats*)(l->scales + first + v * LANES), bias);
    }
  }
}

INLINED void multiply_floats(const int64_t tokens, const linear* l, int64_t j, const void* inputs,
                             int64_t stride, const int64_t type, const ahead* next, float* sums) {
  tile registers;
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      registers[t][v] = l->bias ? *(const floats*)(l->bias + j * PANEL + v * LANES) : (floats){0};
  const void* panel = (const char*)l->panels + j * panel_bytes(l, type);
#if HAS_DOT2
  if (type == BFLOAT16)
    multiply_pairs(tokens, inputs, stride, panel, l->in, next, registers);
  else
#endif
    multiply_singly(tokens, inputs, stride, panel, l->in, type, next, registers);
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      *(floats*)(sums + t * PANEL + v * LANES) = registers[t][v];
}

INLINED void multiply_tokens(const int64_t tokens, const linear* l, int64_t j, const void* inputs,
                             int64_t stride, const int64_t type, const ahead* next, float* sums) {
  if (type == INT8)
    multiply_integers(tokens, l, j, inputs, stride, next, sums);
  else
    multiply_floats(tokens, l, j, inputs, stride, type, next, sums);
}

// Computes sums [tokens][PANEL] = inputs · panel j of the weights + bias, for up to TILE tokens.
//
// inputs: as `store_input` writes them; blocks for 8-bit weights. stride: from token to token, in inputs or
// blocks.
static void multiply(int64_t tokens, const linear* l, int64_t j, const void* inputs, int64_t stride,
                     int64_t type, const ahead* next, float* sums) {
#define CASE(n, type) \
  case 3 * n + type: return multiply_tokens(n, l, j, inputs, stride, type, next, sums);
#define CASES(n) CASE(n, FLOAT32) CASE(n, BFLOAT16) CASE(n, INT8)
  switch (3 * tokens + type) { CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) }
#undef CASES
#undef CASE
}
