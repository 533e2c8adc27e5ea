// The highest output of a linear layer, in less time than the layer's product takes.
//
// rounded_product.h gives a lower and an upper bound of each output. Outputs that cannot be the highest are
// excluded. The few that are left, the token's shortlist, are computed exactly as the product computes them.
// So the answer is the product's, or there is no answer because too many outputs are left.
//
// A token that is drawn is the argmax of the noisy logits. Its noise is known exactly, so both bounds get the
// same noise, and the rest is the same.
#pragma once

#include "noise.h"
#include "rounded_product.h"

// SHORTLIST: how many outputs a token's list has room for. TRIED: how many outputs of a shortlist are
// computed at a time. AHEAD: how many steps ahead memory is fetched.
enum { SHORTLIST = 384, TRIED = 4, AHEAD = 8 };

// The outputs that may be a token's highest. most: an upper bound of each. least: a lower bound of the
// highest one; infinite if the list was given up. For a token that is drawn, the bounds include the noise.
typedef struct {
  float least;
  int32_t count, outputs[SHORTLIST];
  float most[SHORTLIST];
} shortlist;

#if HAS_SHORTLISTS

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

// Adds those of the `count` outputs from `first` on that may be the highest, given their bounds. It is not
// inlined, because with a copy for each of a tile's vectors the compiler takes three times as long.
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

// Adds the outputs of panel j to the lists of up to TILE tokens. inputs: the tokens' integers, `stride` bytes
// from token to token. places: each token's index in `noises`.
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

// Adds another thread's list to a list.
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

// Removes the outputs with the highest upper bounds from the list. Returns how many there are, at most TRIED.
// The rest of `outputs` repeats the first one.
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

// Returns TRIED outputs of a layer without a bias, as its product computes them. The other lanes are 0.
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

// Returns the output with the highest score. Ties go to the lowest output. Returns -1 if the list was given
// up or an output is not finite.
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
