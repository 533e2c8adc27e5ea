// Products of a batch of tokens with a linear layer's weights: AVX-512, for bfloat16 AVX-512-BF16.
//
// Weights lie in panels of PANEL outputs, the last one filled up with zeros. For float32 a panel is
// [in][PANEL], for bfloat16 [in / 2][PANEL][2], as the instruction takes two neighbours at once. So a panel
// is read from front to end, once for each tile of TILE tokens, while the next one is fetched.
//
// Each output is one sum in the order of the inputs, however many tokens there are and whatever the threads:
// a token's result does not depend on the batch.
#pragma once

#include "vectors.h"

#ifdef __AVX512F__

enum { PANEL_VECTORS = 4, PANEL = PANEL_VECTORS * LANES, TILE = 6 };

// A linear layer, in -> out. out = 0: there is none. bias: [panels * PANEL] or NULL.
typedef struct {
  int64_t out, in;
  const void* panels;
  const float* bias;
} linear;

// A tile of tokens by a panel of outputs: what is summed up in registers.
typedef __m512 tile[TILE][PANEL_VECTORS];

INLINED int64_t panels_of(const linear* l) { return (l->out + PANEL - 1) / PANEL; }

INLINED int64_t panel_bytes(const linear* l, int64_t is_bfloat16) {
  return l->in * PANEL * (is_bfloat16 ? 2 : 4);
}

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
      _mm_prefetch(next->from + 64 * line, _MM_HINT_T0);
    else
      _mm_prefetch(next->from + 64 * line, _MM_HINT_T1);
  }
}

INLINED void multiply_bfloat16(const int64_t tokens, const uint16_t* inputs, int64_t stride,
                               const uint16_t* panel, int64_t in, const ahead* next, tile sums) {
#ifdef __AVX512BF16__
  for (int64_t pair = 0; pair < in / 2; pair++) {
    __m512bh weights[PANEL_VECTORS];
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      weights[v] = (__m512bh)_mm512_loadu_si512(panel + (pair * PANEL_VECTORS + v) * 2 * LANES);
    fetch(next, pair);
    for (int64_t t = 0; t < tokens; t++) {
      int32_t both;
      memcpy(&both, inputs + t * stride + 2 * pair, sizeof both);
      const __m512bh input = (__m512bh)_mm512_set1_epi32(both);
      for (int64_t v = 0; v < PANEL_VECTORS; v++)
        sums[t][v] = _mm512_dpbf16_ps(sums[t][v], weights[v], input);
    }
  }
#else
  (void)tokens, (void)inputs, (void)stride, (void)panel, (void)in, (void)next, (void)sums;
  __builtin_trap();  // See `takes`.
#endif
}

INLINED void multiply_float32(const int64_t tokens, const float* inputs, int64_t stride, const float* panel,
                              int64_t in, const ahead* next, tile sums) {
  for (int64_t i = 0; i < in; i++) {
    __m512 weights[PANEL_VECTORS];
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      weights[v] = _mm512_loadu_ps(panel + (i * PANEL_VECTORS + v) * LANES);
    fetch(next, i);
    for (int64_t t = 0; t < tokens; t++) {
      const __m512 input = _mm512_set1_ps(inputs[t * stride + i]);
      for (int64_t v = 0; v < PANEL_VECTORS; v++) sums[t][v] = _mm512_fmadd_ps(weights[v], input, sums[t][v]);
    }
  }
}

INLINED void multiply_tokens(const int64_t tokens, const linear* l, int64_t j, const void* inputs,
                             int64_t stride, int64_t is_bfloat16, const ahead* next, float* sums) {
  tile registers;
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      registers[t][v] = l->bias ? _mm512_loadu_ps(l->bias + j * PANEL + v * LANES) : _mm512_setzero_ps();
  const void* panel = (const char*)l->panels + j * panel_bytes(l, is_bfloat16);
  if (is_bfloat16)
    multiply_bfloat16(tokens, inputs, stride, panel, l->in, next, registers);
  else
    multiply_float32(tokens, inputs, stride, panel, l->in, next, registers);
#pragma GCC unroll 6
  for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < PANEL_VECTORS; v++)
      _mm512_storeu_ps(sums + t * PANEL + v * LANES, registers[t][v]);
}

// sums [tokens][PANEL] = inputs · panel j of the weights + bias, for up to TILE tokens. inputs: elements,
// `stride` from token to token.
static void multiply(int64_t tokens, const linear* l, int64_t j, const void* inputs, int64_t stride,
                     int64_t is_bfloat16, const ahead* next, float* sums) {
#define CASE(n, type) \
  case 2 * n + type: return multiply_tokens(n, l, j, inputs, stride, type, next, sums);
#define CASES(n) CASE(n, 0) CASE(n, 1)
  switch (2 * tokens + (is_bfloat16 != 0)) { CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) }
#undef CASES
#undef CASE
}

#endif
