// AVX2 with FMA (x86-64-v3).
#pragma once

#include <immintrin.h>

#define HAS_DOT2 0
#define HAS_DOT4 0
#define HAS_SHORTLISTS 1

enum { PANEL_VECTORS = 2, SLICE = 8 };

INLINED floats fma_of(floats a, floats b, floats c) {
  return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINED uint32_t bits_above(floats a, floats b) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ));
}

INLINED __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINED floats load_first(const float* from, int64_t count) {
  return (floats)_mm256_maskload_ps(from, first_lanes(count));
}

INLINED void store_first(floats values, float* to, int64_t count) {
  _mm256_maskstore_ps(to, first_lanes(count), (__m256)values);
}

INLINED halves narrowed(words values) {
  const __m256i all = (__m256i)(values & 0xffff);
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  halves to;
  memcpy(&to, &narrow, sizeof to);
  return to;
}

INLINED words upper_halves(words values) {
  words halves = values >> 16;
  __asm__("" : "+x"(halves));  // Otherwise GCC would use a mask, which takes a register away from the sums.
  return halves << 16;
}

INLINED words widened(const int8_t* from) {
  return (words)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from));
}

INLINED integers dot_integers(integers sums, words a, words b) {
  sums += (integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
  __asm__("" : "+x"(sums));
  return sums;
}
