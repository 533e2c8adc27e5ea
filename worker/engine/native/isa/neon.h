// NEON, which every 64-bit ARM has.
#pragma once

#include <arm_neon.h>

#define HAS_DOT2 0
#define HAS_DOT4 0

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

INLINED floats from_int8(const int8_t* from) {
  int8x8_t bytes = {0};
  memcpy(&bytes, from, LANES);
  return (floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
