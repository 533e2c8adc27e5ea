// Products of a batch of tokens with a linear layer's weights.
//
// Weights lie in panels of PANEL outputs, the last one filled up with zeros. A row of a panel holds what
// belongs to one input: [in][PANEL] for float32 and 8-bit integers. For bfloat16 it holds two neighbouring
// inputs, [in / 2][PANEL][2], as `dot2` takes both at once. So a panel is read from front to end, once for
// each tile of up to TILE tokens, while the next panel is fetched.
//
// Each output is one sum in the order of the inputs (of bfloat16's two neighbours the second comes first),
// however many tokens there are and whatever the threads and the instruction set: a token's result does not
// depend on the batch.
#pragma once

#include "vectors.h"

enum { TILE = 6 };

// The type of a model's weights. Everything else, the cache included, is bfloat16 with BFLOAT16 and float32
// with the others.
typedef enum { FLOAT32, BFLOAT16, INT8 } weight_type;

// A linear layer, in -> out. out = 0: there is none. bias, scales: [panels * PANEL]. bias may be NULL;
// scales, by which 8-bit weights are multiplied, are NULL for other types.
typedef struct {
  int64_t out, in;
  const void* panels;
  const float *bias, *scales;
} linear;

// A tile of tokens by a panel of outputs: what is summed up in registers.
typedef floats tile[TILE][PANEL_VECTORS];

INLINED int64_t panels_of(const linear* l) { return (l->out + PANEL - 1) / PANEL; }

INLINED int64_t panel_bytes(const linear* l, int64_t type) {
  return l->in * PANEL * (type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1);
}

// How many inputs a row of a panel belongs to.
INLINED int64_t row_inputs(int64_t type) { return type == BFLOAT16 ? 2 : 1; }

// A product's inputs are bfloat16 where `dot2` takes them so. Elsewhere they are float32, rounded to what
// bfloat16 can hold where the weights are bfloat16.

INLINED int64_t has_narrow_inputs(int64_t type) { return HAS_DOT2 && type == BFLOAT16; }

INLINED void* input_at(const void* inputs, int64_t index, int64_t type) {
  return element(inputs, index, has_narrow_inputs(type));
}

INLINED void store_input(floats values, void* inputs, int64_t index, int64_t type) {
  if (type == BFLOAT16 && !HAS_DOT2) values = rounded_to_bfloat16(values);
  store(values, inputs, index, has_narrow_inputs(type));
}

INLINED int64_t input_bytes(int64_t type) { return has_narrow_inputs(type) ? 2 : 4; }

// What to ask memory for during a product: so many lines of the cache a step, in parts of 2^16. Evenly: where
// they come in bursts, a tenth of the time is lost.
typedef struct {
  const char* from;
  int64_t rate;
} ahead;

INLINED ahead ahead_of(const char* from, int64_t lines, int64_t steps) {
  return (ahead){from, ((lines << 16) + steps - 1) / steps};
}

// Into the first cache where that goes slowly; it would push out what is there where it goes fast.
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

// A vector of weights that belong to one input. neighbour: which one of a row's.
INLINED floats weights_at(const void* row, int64_t vector, int64_t neighbour, int64_t type) {
  if (type == FLOAT32) return *(const floats*)((const float*)row + vector * LANES);
  if (type == INT8) return from_int8((const int8_t*)row + vector * LANES);
  const words both = *(const words*)((const uint16_t*)row + vector * 2 * LANES);
  return (floats)(neighbour ? both & 0xffff0000 : both << 16);
}

INLINED void multiply_singly(const int64_t tokens, const float* inputs, int64_t stride, const void* panel,
                             int64_t in, const int64_t type, const ahead* next, tile sums) {
  const int64_t neighbours = row_inputs(type), row_bytes = PANEL * (type == INT8 ? 1 : 4);
  const char* at = panel;
  for (int64_t row = 0; row < in / neighbours; row++, at += row_bytes) {
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

INLINED void multiply_tokens(const int64_t tokens, const linear* l, int64_t j, const void* inputs,
                             int64_t stride, const int64_t type, const ahead* next, float* sums) {
  const int64_t first = j * PANEL;
  tile registers;
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      registers[t][v] = l->bias && type != INT8 ? *(const floats*)(l->bias + first + v * LANES) : (floats){0};
  const void* panel = (const char*)l->panels + j * panel_bytes(l, type);
#if HAS_DOT2
  if (type == BFLOAT16)
    multiply_pairs(tokens, inputs, stride, panel, l->in, next, registers);
  else
#endif
    multiply_singly(tokens, inputs, stride, panel, l->in, type, next, registers);
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++) {
      if (type == INT8) {
        const floats bias = l->bias ? *(const floats*)(l->bias + first + v * LANES) : (floats){0};
        registers[t][v] = fma_of(registers[t][v], *(const floats*)(l->scales + first + v * LANES), bias);
      }
      *(floats*)(sums + t * PANEL + v * LANES) = registers[t][v];
    }
  }
}

// sums [tokens][PANEL] = inputs · panel j of the weights + bias, for up to TILE tokens. inputs: see
// `store_input`; `stride` from token to token.
static void multiply(int64_t tokens, const linear* l, int64_t j, const void* inputs, int64_t stride,
                     int64_t type, const ahead* next, float* sums) {
#define CASE(n, type) \
  case 3 * n + type: return multiply_tokens(n, l, j, inputs, stride, type, next, sums);
#define CASES(n) CASE(n, FLOAT32) CASE(n, BFLOAT16) CASE(n, INT8)
  switch (3 * tokens + type) { CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) }
#undef CASES
#undef CASE
}
