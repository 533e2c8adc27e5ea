// NEON, which every 64-bit ARM has.
#pragma once

#include <arm_neon.h>

#define HAS_DOT2 0
#define HAS_DOT4 0
#define HAS_SHORTLISTS 0

enum { PANEL_VECTORS = 4, SLICE = 16 };

INLINED floats fma_of(floats a, floats b, floats c) {
  return (floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

INLINED uint32_t bits_above(floats a, floats b) {
  const uint32x4_t lanes = {1, 2, 4, 8};
  return vaddvq_u32(vbicq_u32(lanes, vcleq_f32((float32x4_t)a, (float32x4_t)b)));
}

INLINED floats load_first(const float* from, int64_t count) {
  floats values = {0};
  memcpy(&values, from, count * sizeof *from);
  return values;
}

INLINED void store_first(floats values, float* to, int64_t count) { memcpy(to, &values, count * sizeof *to); }

INLINED halves narrowed(words values) { return (halves)vmovn_u32((uint32x4_t)values); }

INLINED words upper_halves(words values) { return values & 0xffff0000; }

INLINED words widened(const int8_t* from) { return (words)vmovl_s8(vld1_s8(from)); }

INLINED integers dot_integers(integers sums, words a, words b) {
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  sums += (integers)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
  __asm__("" : "+w"(sums));
  return sums;
}
