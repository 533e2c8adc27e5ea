// The highest output of a linear layer, in less time than the layer's product takes.
//
// The layer's weights are held a second time, rounded to whole numbers of 8 bits; so are a token's inputs.
// With an output's weights w = scale q + e and the inputs h = factor p + f
//
//   |w·h - scale factor q·p| = |scale q·f + e·h| <= |scale q| |f| + |e| |h|
//
// (Cauchy-Schwarz), and the q·p of all outputs take less time than the product, and half the memory of one in
// bfloat16, a quarter of one in float32. Outputs that cannot be the highest, however far off their own q·p
// and that of a better one may be, are struck out. The few that are left, the token's shortlist, are computed
// as the product would, to the bit. So the answer is the product's; or none, where too many are left.
//
// A token that is drawn is the one of the highest noisy logit. Its noise is known exactly, so both bounds are
// made noisy, and the rest is the same.
//
// With `dot4` inputs are rounded to 8 bits, elsewhere to 16, as for any product with weights of 8 bits.
#pragma once

#include "noise.h"
#include "product.h"

// SHORTLIST: outputs that a token's list has room for. NEIGHBOURS: inputs that the instruction takes at once.
// TRIED: of a shortlist's outputs, how many are computed at a time. AHEAD: steps that memory needs.
enum { SHORTLIST = 384, NEIGHBOURS = HAS_DOT4 ? 4 : 2, TRIED = 4, AHEAD = 8 };

// A linear layer's weights, rounded. whole: a layer of the q and the scales, without a bias; out = 0 where
// there is none. Its panels are [in / NEIGHBOURS][PANEL][NEIGHBOURS]. The others are of each output: offsets,
// -128 sum(q); lengths, |scale q|; errors, |e| and what the rounding of sums may add, in parts of |h|.
typedef struct {
  linear whole;
  const int32_t* offsets;
  const float *lengths, *errors;
} rounded_weights;

// A token's inputs h, rounded; the numbers p lie elsewhere. length: |h|. error: |f|. factor: with `dot4`.
typedef struct {
  float factor, length, error;
} rounded_inputs;

// Bytes of a token's numbers: p + 128, or blocks.
INLINED int64_t rounded_bytes(int64_t width) {
  return HAS_DOT4 ? (width + WIDE - 1) / WIDE * WIDE + 2 * WIDE : blocks_of(width) * (int64_t)sizeof(block);
}

// Outputs that may be a token's highest. most: what each may be at most. least: what the highest is at least;
// infinite where the list was given up. Of a token that is drawn all of it is noisy.
typedef struct {
  float least;
  int32_t count, outputs[SHORTLIST];
  float most[SHORTLIST];
} shortlist;

#if HAS_SHORTLISTS

INLINED float length_of(floats squares) {
  float sum = 0;
  for (int64_t i = 0; i < LANES; i++) sum += squares[i];
  return sqrtf(sum) * 1.0001f;
}

INLINED floats input_values(const void* inputs, int64_t index, int64_t type) {
  return load(inputs, index, has_narrow_inputs(type));
}

// Rounds inputs [width] to `to`. No bound holds for what is not a number, or so small or large that what the
// processor takes for zero or infinite would count: then the length is infinite.
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

INLINED void give_up(shortlist* list) { list->least = INFINITY; }
INLINED int is_given_up(const shortlist* list) { return list->least == INFINITY; }

INLINED void strike_out(shortlist* list, float least) {
  int32_t left = 0;
  for (int32_t i = 0; i < list->count; i++) {
    if (list->most[i] < least) continue;
    list->outputs[left] = list->outputs[i];
    list->most[left++] = list->most[i];
  }
  list->count = left;
  list->least = least;
}

// Considers that the `count` outputs from `first` on are at most and at least this. One copy of it is enough:
// with one for each of a tile's vectors the compiler takes three times as long.
static __attribute__((noinline)) void consider(shortlist* list, floats most, floats least, int64_t count,
                                               int64_t first, const noise* n) {
  const uint32_t all = first_bits(count);
  if (n->inverse_temperature) {
    const words ids = ids_from(first);
    if (!(may_reach(most, ids, n, list->least) & all)) return;
    const floats added = noise_of(ids, n), factor = all_of(n->inverse_temperature);
    most = fma_of(most, factor, added);
    least = fma_of(least, factor, added);
  }
  most = chosen(most == most, most, all_of(INFINITY));
  uint32_t left = all & ~bits_above(all_of(list->least), most);
  if (!left || is_given_up(list)) return;
  for (int64_t lane = 0; lane < LANES && lane < count; lane++)
    if (least[lane] > list->least) list->least = least[lane];
  for (; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    if (most[lane] < list->least) continue;
    if (list->count == SHORTLIST) strike_out(list, list->least);
    if (list->count == SHORTLIST) return give_up(list);
    list->outputs[list->count] = first + lane;
    list->most[list->count++] = most[lane];
  }
}

#if HAS_DOT4
// middles [tokens][PANEL] = scale factor q·p, of panel j.
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
  (void)rounded;  // Blocks have factors of their own.
  multiply(tokens, &weights->whole, j, inputs, stride / (int64_t)sizeof(block), INT8, next, middles);
}
#endif

// Considers the outputs of panel j for up to TILE tokens. inputs: their numbers, `stride` bytes from token to
// token. noises: of each token.
static void shortlist_panel(int64_t tokens, const rounded_weights* weights, int64_t j, const void* inputs,
                            int64_t stride, const rounded_inputs* rounded, const noise* noises,
                            const int32_t* places, const ahead* next, shortlist* lists) {
  float middles[TILE * PANEL];
  multiply_rounded(tokens, weights, j, inputs, stride, rounded, next, middles);
  for (int64_t v = 0; v < PANEL_VECTORS; v++) {
    const int64_t first = j * PANEL + v * LANES;
    if (first >= weights->whole.out) return;
    const floats lengths = *(const floats*)(weights->lengths + first),
                 errors = *(const floats*)(weights->errors + first);
    for (int64_t t = 0; t < tokens; t++) {
      const floats middle = *(const floats*)(middles + t * PANEL + v * LANES),
                   away = fma_of(lengths, all_of(rounded[t].error), errors * rounded[t].length);
      consider(&lists[t], middle + away, middle - away, weights->whole.out - first, first,
               &noises[places[t]]);
    }
  }
}

// Adds another thread's list.
INLINED void join(shortlist* list, shortlist* other) {
  const float least = fmaxf(list->least, other->least);
  strike_out(list, least);
  strike_out(other, least);
  if (list->count + other->count > SHORTLIST) give_up(list);
  if (is_given_up(list)) return;
  memcpy(list->outputs + list->count, other->outputs, other->count * sizeof *other->outputs);
  memcpy(list->most + list->count, other->most, other->count * sizeof *other->most);
  list->count += other->count;
}

// Takes those out that promise most. Returns how many; behind them others stand a second time.
INLINED int64_t take(shortlist* list, int32_t* outputs) {
  int64_t taken = 0;
  for (; taken < TRIED && list->count; taken++) {
    int32_t chosen = 0;
    for (int32_t i = 1; i < list->count; i++)
      if (list->most[i] > list->most[chosen]) chosen = i;
    outputs[taken] = list->outputs[chosen];
    list->outputs[chosen] = list->outputs[--list->count];
    list->most[chosen] = list->most[list->count];
  }
  for (int64_t i = taken; i < LANES; i++) outputs[i] = outputs[0];
  return taken;
}

// TRIED outputs of a layer without a bias, as its product computes them; the other lanes are 0.
INLINED floats outputs_of(const linear* l, const int32_t* outputs, const void* inputs, const int64_t type) {
  const int64_t rows = l->in / row_inputs(type), row_bytes = PANEL * 4;
  const char* weights_of[TRIED];
  for (int64_t i = 0; i < TRIED; i++)
    weights_of[i] = (const char*)l->panels + (outputs[i] / PANEL * rows * PANEL + outputs[i] % PANEL) * 4;
  floats sums = {0};
  for (int64_t row = 0; row < rows; row++) {
    words weights = {0};
#pragma GCC unroll 4
    for (int64_t i = 0; i < TRIED; i++) {
      const char* from = weights_of[i] + row * row_bytes;
      __builtin_prefetch(from + AHEAD * row_bytes, 0, 3);
      weights[i] = *(const uint32_t*)from;
    }
    if (has_narrow_inputs(type)) {
#if HAS_DOT2
      uint32_t both;
      memcpy(&both, (const uint16_t*)inputs + 2 * row, sizeof both);
      sums = dot2(sums, weights, (words){0} + both);
#endif
      continue;
    }
    const float* input = (const float*)inputs + row * row_inputs(type);
    if (type == BFLOAT16) {
      sums = fma_of((floats)upper_halves(weights), all_of(input[1]), sums);
      sums = fma_of((floats)(weights << 16), all_of(input[0]), sums);
    } else {
      sums = fma_of((floats)weights, all_of(input[0]), sums);
    }
  }
  return sums;
}

// The highest of a list's outputs, noisy or not, of equals the first; -1 where the list was given up, or
// holds what is not finite.
static int32_t highest_of(shortlist* list, const linear* l, const void* inputs, int64_t type,
                          const noise* n) {
  int32_t best = -1;
  if (is_given_up(list)) return best;
  float highest = -INFINITY;
  while (list->count) {
    int32_t tried[LANES];
    const int64_t count = take(list, tried);
    floats outputs = type == BFLOAT16 ? outputs_of(l, tried, inputs, BFLOAT16)
                                      : outputs_of(l, tried, inputs, FLOAT32);
    if (n->inverse_temperature) outputs = noisy(outputs, *(const words*)tried, n);
    for (int64_t i = 0; i < count; i++) {
      if (!isfinite(outputs[i])) return -1;
      if (outputs[i] < highest || (outputs[i] == highest && tried[i] > best)) continue;
      highest = outputs[i];
      best = tried[i];
    }
    strike_out(list, highest);
  }
  return best;
}

#endif
