#pragma once

#include "vectors.h"

enum { MAX_HEAD_DIM = 256, MAX_QUERIES = 16 };

// A query [head_dim], scaled, that reads the first tokens of a history, at least one; and its output
// [head_dim].
typedef struct {
  const float* values;
  int64_t length;
  float* output;
} query;

// A row's tokens at one head of keys and values, in the cache's type; they follow each other without holes.
typedef struct {
  const void *keys, *values;
  int64_t length;
} history;

// Attention of up to MAX_QUERIES queries that share a history, which is read once for them. head_dim: a
// multiple of WIDE. next: what will be read after it, so that memory can begin.
void attend_together(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                     const history* read, const history* next);
