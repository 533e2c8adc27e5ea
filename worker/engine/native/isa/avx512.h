// AVX-512 (x86-64-v4), with AVX-512-BF16 and AVX-512-VNNI if the compiler's flags allow them.
#pragma once

#include <immintrin.h>

#define HAS_SHORTLISTS 1

enum { PANEL_VECTORS = 4, SLICE = 16 };

INLINED floats fma_of(floats a, floats b, floats c) {
  return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

INLINED uint32_t bits_above(floats a, floats b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
}

INLINED floats load_first(const float* from, int64_t count) {
  return (floats)_mm512_maskz_loadu_ps((1u << count) - 1, from);
}

INLINED void store_first(floats values, float* to, int64_t count) {
  _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)values);
}

INLINED halves narrowed(words values) {
  const __m256i narrow = _mm512_cvtepi32_epi16((__m512i)values);
  halves to;
  memcpy(&to, &narrow, sizeof to);
  return to;
}

INLINED words upper_halves(words values) { return values & 0xffff0000; }

INLINED words widened(const int8_t* from) {
  return (words)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
}

INLINED integers dot_integers(integers sums, words a, words b) {
#ifdef __AVX512VNNI__
  sums = (integers)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
  sums += (integers)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#endif
  __asm__("" : "+v"(sums));
  return sums;
}

#ifdef __AVX512BF16__
#define HAS_DOT2 1

// Returns sums + a · b, for pairs of bfloat16. The second one of a pair is added first.
INLINED floats dot2(floats sums, words a, words b) {
  return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

INLINED void store_bfloat16(floats values, uint16_t* to) {
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)values);
  memcpy(to, &rounded, sizeof rounded);
}
#else
#define HAS_DOT2 0
#endif

#ifdef __AVX512VNNI__
#define HAS_DOT4 1

// Returns sums + a · b, for groups of four: unsigned 8-bit integers in a, signed ones in b.
INLINED integers dot4(integers sums, words a, words b) {
  return (integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}
#else
#define HAS_DOT4 0
#endif
