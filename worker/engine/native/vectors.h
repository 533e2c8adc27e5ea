// Vectors of float32, with conversions to and from bfloat16, for every instruction set of the decoder.
//
// A vector is one of GCC's vector types with LANES numbers, as many as an instruction takes at once. The few
// operations that GCC cannot express are in one header per instruction set, in isa/. Results are
// bit-identical with all of them, because
//
//   - a sum of many numbers always has WIDE partial sums, in WIDE / LANES vectors, which `sum` adds up in a
//     fixed order;
//   - a multiplication and an addition are one instruction exactly where the code says `fma_of`, because the
//     library is compiled with -ffp-contract=off;
//   - we compute exponentials and logarithms ourselves.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINED static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define LANES 4
#else
#error "compile for AVX2 with FMA, for AVX-512, or for 64-bit ARM"
#endif

enum { WIDE = 16, PARTS = WIDE / LANES };

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint64_t pairs __attribute__((vector_size(8 * LANES), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2)));

INLINED floats all_of(float value) { return value - (floats){0}; }

// Each header defines:
//   PANEL_VECTORS   how many vectors of outputs a panel of weights has, see product.h
//   SLICE           how many vectors of a head attention sums up in registers
//   HAS_DOT2        whether there is `dot2`, for bfloat16
//   HAS_DOT4        whether there is `dot4`, for 8-bit integers
//   HAS_SHORTLISTS  whether products of integers are faster than others, so that shortlists save time
//   fma_of          a * b + c, rounded once
//   bits_above      a bit for each lane in which the first number exceeds the second, or one of them is NaN
//   load_first      loads the first `count` numbers, 1 to LANES of them; the other lanes are 0
//   store_first     stores the first `count` numbers
//   narrowed        the low half of each word
//   upper_halves    each word with its low half set to 0
//   widened         8-bit integers, two for each lane, as pairs of 16-bit integers
//   dot_integers    sums + a · b, for pairs of 16-bit integers. An empty instruction keeps the sum in a
//                   register. Without it, GCC changes the order of the sums and runs out of registers.
#if LANES == 16
#include "isa/avx512.h"
#elif LANES == 8
#include "isa/avx2.h"
#else
#include "isa/neon.h"
#endif

enum { PANEL = PANEL_VECTORS * LANES };

// WIDE numbers.
typedef struct {
  floats part[PARTS];
} wide;

INLINED wide load_wide(const float* from) {
  wide values;
  for (int64_t p = 0; p < PARTS; p++) values.part[p] = *(const floats*)(from + p * LANES);
  return values;
}

INLINED void store_wide(wide values, float* to) {
  for (int64_t p = 0; p < PARTS; p++) *(floats*)(to + p * LANES) = values.part[p];
}

INLINED float sum(wide values) {
  typedef float eight __attribute__((vector_size(32)));
  typedef float four __attribute__((vector_size(16)));
  eight eights[2];
  memcpy(eights, &values, sizeof eights);
  eights[0] += eights[1];
  four fours[2];
  memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][1]) + (fours[0][2] + fours[0][3]);
}

// Returns `first` in lanes where all bits of the condition are set, and `second` where none is.
INLINED floats chosen(integers condition, floats first, floats second) {
  return (floats)(((integers)first & condition) | ((integers)second & ~condition));
}

INLINED floats absolute(floats x) { return (floats)((integers)x & 0x7fffffff); }

// Returns e^x to within 2 units in the last place; 0 below -87, +inf above 88.7, NaN for NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2. The Taylor series to r^7 gives e^r, and the exponent's bits give 2^n.
INLINED floats exp_of(floats x) {
  const floats rounding = all_of(12582912.0f);  // 1.5 * 2^23: adding it rounds to integers.
  const floats in_range = chosen(x < -87.0f, all_of(-87.0f), chosen(x > 88.0f, all_of(88.0f), x));
  const floats n = fma_of(in_range, all_of(1.44269504f), rounding) - rounding;
  // ln 2 is the sum of two constants. The larger one, 0.693359375, has few bits, so n times it is exact.
  const floats r = fma_of(n, all_of(2.12194440e-4f), fma_of(-n, all_of(0.693359375f), in_range));
  floats e = all_of(1.0f / 5040);
  e = fma_of(e, r, all_of(1.0f / 720));
  e = fma_of(e, r, all_of(1.0f / 120));
  e = fma_of(e, r, all_of(1.0f / 24));
  e = fma_of(e, r, all_of(1.0f / 6));
  e = fma_of(e, r, all_of(0.5f));
  e = fma_of(e, r, all_of(1.0f));
  e = fma_of(e, r, all_of(1.0f));
  e = (floats)((integers)e + (__builtin_convertvector(n, integers) << 23));
  e = chosen(x < -87.0f, (floats){0}, chosen(x > 88.7f, all_of(INFINITY), e));
  return chosen(x == x, e, x);
}

INLINED float exp_of_one(float x) { return exp_of(all_of(x))[0]; }

// Returns the natural logarithm of positive, normal numbers to within 2 units in the last place.
//
// x = 2^n (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). A series gives log(1 + f) = 2 atanh(f / (2 + f)).
INLINED floats log_of(floats x) {
  const integers shifted = (integers)x - 0x3f3504f3;  // The bits of sqrt(1/2).
  const integers exponent = shifted >> 23;
  const floats n = __builtin_convertvector(exponent, floats);
  const floats f = (floats)((integers)x - (exponent << 23)) - 1;
  const floats s = f / (f + 2), z = s * s;
  floats series = all_of(2.0f / 11);
  series = fma_of(series, z, all_of(2.0f / 9));
  series = fma_of(series, z, all_of(2.0f / 7));
  series = fma_of(series, z, all_of(2.0f / 5));
  series = fma_of(series, z, all_of(2.0f / 3));
  // 2 s = f - s f. The sum starts with f, because f is closer to log(1 + f) than 2 s is.
  const floats of_fraction = f - s * fma_of(-z, series, f);
  return fma_of(n, all_of(0.693359375f), fma_of(n, all_of(-2.12194440e-4f), of_fraction));
}

INLINED floats from_bfloat16(const uint16_t* from) {
  return (floats)(__builtin_convertvector(*(const halves*)from, words) << 16);
}

// Rounds to the nearest bfloat16, ties to even, as torch does. The results are still float32.
INLINED floats rounded_to_bfloat16(floats values) {
  const words bits = (words)values;
  const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  return chosen(values == values, (floats)rounded, (floats)((words){0} + 0x7fc00000));
}

INLINED void to_bfloat16(floats values, uint16_t* to) {
#if HAS_DOT2
  store_bfloat16(values, to);
#else
  *(halves*)to = narrowed((words)rounded_to_bfloat16(values) >> 16);
#endif
}

// --- elements of tensors in the model's type: float32 or bfloat16

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
