// The outputs of a linear layer within bounds, in less time than the layer's product takes.
//
// The layer's weights are stored a second time, rounded to 8-bit integers. A token's inputs are rounded as
// well. With an output's weights w = scale q + e and the inputs h = factor p + f
//
//   |w·h - scale factor q·p| = |scale q·f + e·h| <= |scale q| |f| + |e| |h|
//
// by the Cauchy-Schwarz inequality. The q·p of all outputs take less time than the product, and read half the
// memory of bfloat16 weights, or a quarter of float32 weights.
//
// With `dot4`, inputs are rounded to 8 bits. Otherwise they are rounded to 16 bits, as for 8-bit weights.
#pragma once

#include "product.h"

// NEIGHBOURS: how many inputs the instruction takes at once.
enum { NEIGHBOURS = HAS_DOT4 ? 4 : 2 };

// A linear layer's rounded weights.
//
// whole: a layer of the q and the scales, without a bias; its `out` is 0 if there is none. Its panels are
// [in / NEIGHBOURS][PANEL][NEIGHBOURS].
//
// offsets, lengths, errors: for each output -128 sum(q), |scale q|, and |e| plus the error of rounded sums in
// parts of |h|.
typedef struct {
  linear whole;
  const int32_t* offsets;
  const float *lengths, *errors;
} rounded_weights;

// A token's rounded inputs h, without the integers p. length: |h|. error: |f|. factor: only with `dot4`.
typedef struct {
  float factor, length, error;
} rounded_inputs;

// Returns how many bytes a token's integers take: p + 128 with `dot4`, otherwise blocks.
INLINED int64_t rounded_bytes(int64_t width) {
  return HAS_DOT4 ? (width + WIDE - 1) / WIDE * WIDE + 2 * WIDE : blocks_of(width) * (int64_t)sizeof(block);
}

#if HAS_SHORTLISTS

INLINED float length_of(floats squares) {
  float sum = 0;
  for (int64_t i = 0; i < LANES; i++) sum += squares[i];
  return sqrtf(sum) * 1.0001f;
}

INLINED floats input_values(const void* inputs, int64_t index, int64_t type) {
  return load(inputs, index, has_narrow_inputs(type));
}

// Rounds inputs [width] to `to`. The length is infinite if the bounds do not hold: for NaN, and for numbers
// so small or large that the processor's rounding to zero or infinity would matter.
INLINED rounded_inputs round_inputs(const void* inputs, int64_t width, int64_t type, void* to) {
  floats squares = {0}, errors = {0};
  float factor = 0;
#if HAS_DOT4
  floats highest = {0};
  for (int64_t i = 0; i < width; i += LANES) {
    const floats values = input_values(inputs, i, type);
    highest = (floats)_mm512_max_ps((__m512)highest, _mm512_abs_ps((__m512)values));
    squares = fma_of(values, values, squares);
  }
  factor = _mm512_reduce_max_ps((__m512)highest) / 127;
  for (int64_t i = 0; i < width; i += LANES) {
    const floats values = input_values(inputs, i, type);
    const __m512i whole = _mm512_cvtps_epi32((__m512)(values * (1 / factor)));
    const floats error = fma_of((floats)_mm512_cvtepi32_ps(whole), all_of(-factor), values);
    errors = fma_of(error, error, errors);
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128)));
    _mm_storeu_si128((__m128i*)((uint8_t*)to + i), bytes);
  }
#else
  for (int64_t from = 0; from < width; from += BLOCK) {
    const int64_t left = width - from, count = left < BLOCK ? left : BLOCK;
    float values[BLOCK];
    for (int64_t i = 0; i < count; i += LANES) *(floats*)(values + i) = input_values(inputs, from + i, type);
    block* rounded = (block*)to + from / BLOCK;
    round_block(values, count, rounded);
    for (int64_t i = 0; i < count; i += LANES) {
      const floats exact = *(const floats*)(values + i),
                   whole = __builtin_convertvector(*(const shorts*)(rounded->numbers + i), floats),
                   error = fma_of(whole, all_of(-rounded->scale), exact);
      squares = fma_of(exact, exact, squares);
      errors = fma_of(error, error, errors);
    }
  }
#endif
  const float length = length_of(squares);
  const int is_bounded = length > 1e-5f && length < 1e15f;
  return (rounded_inputs){factor, is_bounded ? length : INFINITY, length_of(errors)};
}

#if HAS_DOT4
// Computes middles [tokens][PANEL] = scale factor q·p, for panel j.
INLINED void multiply_quads(const int64_t tokens, const rounded_weights* weights, int64_t j,
                            const uint8_t* inputs, int64_t stride, const rounded_inputs* rounded,
                            const ahead* next, float* middles) {
  const int64_t in = weights->whole.in;
  integers sums[TILE][PANEL_VECTORS];
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      sums[t][v] = *(const integers*)(weights->offsets + j * PANEL + v * LANES);
  const int8_t* panel = (const int8_t*)weights->whole.panels + j * PANEL * in;
  for (int64_t quad = 0; quad < in / NEIGHBOURS; quad++) {
    words q[PANEL_VECTORS];
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      q[v] = *(const words*)(panel + (quad * PANEL_VECTORS + v) * LANES * NEIGHBOURS);
    fetch(next, quad);
    for (int64_t t = 0; t < tokens; t++) {
      uint32_t four;
      memcpy(&four, inputs + t * stride + quad * NEIGHBOURS, sizeof four);
      const words p = (words){0} + four;
      for (int64_t v = 0; v < PANEL_VECTORS; v++) sums[t][v] = dot4(sums[t][v], p, q[v]);
    }
  }
#pragma GCC unroll 4
  for (int64_t v = 0; v < PANEL_VECTORS; v++) {
    const floats scales = *(const floats*)(weights->whole.scales + j * PANEL + v * LANES);
#pragma GCC unroll 6
    for (int64_t t = 0; t < tokens; t++)
      *(floats*)(middles + t * PANEL + v * LANES) =
          __builtin_convertvector(sums[t][v], floats) * scales * rounded[t].factor;
  }
}

static void multiply_rounded(int64_t tokens, const rounded_weights* weights, int64_t j, const void* inputs,
                             int64_t stride, const rounded_inputs* rounded, const ahead* next,
                             float* middles) {
#define CASE(n) \
  case n: return multiply_quads(n, weights, j, inputs, stride, rounded, next, middles);
  switch (tokens) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}
#else
static void multiply_rounded(int64_t tokens, const rounded_weights* weights, int64_t j, const void* inputs,
                             int64_t stride, const rounded_inputs* rounded, const ahead* next,
                             float* middles) {
  (void)rounded;  // Each block has its own factor.
  multiply(tokens, &weights->whole, j, inputs, stride / (int64_t)sizeof(block), INT8, next, middles);
}
#endif

#endif
