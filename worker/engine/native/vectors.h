// Vectors of float32, and bfloat16 as it lies in memory. Portable, but for what needs AVX-512.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINED static inline __attribute__((always_inline))

enum { LANES = 16 };

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint64_t pairs __attribute__((vector_size(8 * LANES), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

INLINED floats all_of(float value) { return value - (floats){0}; }

INLINED float sum(floats values) {
  eight eights[2];
  memcpy(eights, &values, sizeof eights);
  eights[0] += eights[1];
  four fours[2];
  memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][1]) + (fours[0][2] + fours[0][3]);
}

// The first where the condition (all bits or none) holds, else the second.
INLINED floats chosen(integers condition, floats first, floats second) {
  return (floats)(((integers)first & condition) | ((integers)second & ~condition));
}

// e^x to within 2 units in the last place; 0 below -87, +inf above 88.7, NaN stays.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series to r^7, 2^n by way of the exponent's bits.
INLINED floats exp_of(floats x) {
  const floats rounding = all_of(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers.
  const floats in_range = chosen(x < -87.0f, all_of(-87.0f), chosen(x > 88.0f, all_of(88.0f), x));
  const floats n = (in_range * 1.44269504f + rounding) - rounding;
  const floats r = (in_range - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact.
  floats e = 1.0f / 5040 + (floats){0};
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  e = (floats)((integers)e + (__builtin_convertvector(n, integers) << 23));
  e = chosen(x < -87.0f, (floats){0}, chosen(x > 88.7f, all_of(INFINITY), e));
  return chosen(x == x, e, x);
}

INLINED floats from_bfloat16(const uint16_t* from) {
  return (floats)(__builtin_convertvector(*(const halves*)from, words) << 16);
}

// To the nearest, ties to even, as torch rounds.
INLINED void to_bfloat16(floats values, uint16_t* to) {
#ifdef __AVX512BF16__
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)values);
  memcpy(to, &rounded, sizeof rounded);
#else
  const words bits = (words)values;
  const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const words number = (words)(values == values);
  *(halves*)to = __builtin_convertvector((rounded & number) | (0x7fc0 & ~number), halves);
#endif
}

// Elements, of tensors in the model's type: float32 or bfloat16.

INLINED void* element(const void* elements, int64_t index, int64_t is_bfloat16) {
  return (char*)elements + index * (is_bfloat16 ? 2 : 4);
}

INLINED floats load(const void* elements, int64_t index, int64_t is_bfloat16) {
  const void* from = element(elements, index, is_bfloat16);
  return is_bfloat16 ? from_bfloat16(from) : *(const floats*)from;
}

INLINED void store(floats values, void* elements, int64_t index, int64_t is_bfloat16) {
  void* to = element(elements, index, is_bfloat16);
  if (is_bfloat16)
    to_bfloat16(values, to);
  else
    *(floats*)to = values;
}
