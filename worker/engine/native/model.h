// A model's weights, a batch of tokens, and the scratch memory of a batch in the model.
#pragma once

#include <stddef.h>

#include "attention.h"
#include "elementwise.h"
#include "shortlist.h"

// projections: to query, key and value, by one layer for all or by three. gate: its `out` is 0 if there is
// none. query_norm, key_norm: for each head; NULL weights if there is none.
typedef struct {
  norm attention_norm, query_norm, key_norm, mlp_norm;
  linear projections[3], attention_output, gate, up, down;
} layer;

// type: a weight_type. scale: a factor of the queries.
//
// embeddings: elements [vocab, hidden]. positions: elements [positions, hidden], which are added to them; NULL
// if positions are rotary.
typedef struct {
  int64_t layers, hidden, heads, kv_heads, head_dim, inner, type, is_rms, activation;
  float epsilon, scale;
  const void *embeddings, *positions;
  norm final_norm;
  linear head;
  rounded_weights rounded_head;
} model;

// A row of the cache. states: elements [layers][keys, values][kv_heads][room][head_dim].
typedef struct {
  char* states;
  int64_t room;
} row_states;

// cache: all rows; they have room for the tokens.
//
// token_ids, rows, positions: each token's id, row and position. Tokens of one row are side by side, in order.
//
// asked: the tokens whose next token is asked for, in order. noises: how each of these is drawn.
//
// best: the next tokens: the argmax of the logits or of the noisy logits. Ties go to the lowest id; -1 if the
// highest is not finite.
//
// logit_rows: for each asked token the row of `logits` for its logits, or -1 if they are not wanted.
//
// may_shortlist: whether `rounded_head` may be used to avoid the head's product for tokens without wanted
// logits. answered: for how many tokens that worked.
//
// cosines, sines: of all positions, [positions, head_dim]; NULL if positions are part of the embeddings.
//
// layers_done: a count of layers, which shows other threads that the pass makes progress.
//
// scratch: `scratch_bytes` bytes.
typedef struct {
  int64_t tokens, asked_tokens, threads, may_shortlist;
  const row_states* cache;
  const int32_t *token_ids, *rows, *positions, *asked, *logit_rows;
  const noise* noises;
  const float *cosines, *sines;
  float* logits;
  int64_t *best, *answered, *layers_done;
  char* scratch;
} batch;

INLINED int64_t is_bfloat16(const model* m) { return m->type == BFLOAT16; }

// Returns the stride from token to token for this width. It exceeds the width, which is often a power of two.
// With a power of two as stride, elements of all tokens would compete for the same places in the cache.
INLINED int64_t padded(int64_t width) { return (width + WIDE - 1) / WIDE * WIDE + 2 * WIDE; }

INLINED int64_t query_width(const model* m) { return m->heads * m->head_dim; }
INLINED int64_t kv_width(const model* m) { return m->kv_heads * m->head_dim; }
INLINED int64_t projected_width(const model* m) { return padded(query_width(m) + 2 * kv_width(m)); }
INLINED int64_t widest(const model* m) {
  const int64_t hidden = m->hidden > query_width(m) ? m->hidden : query_width(m);
  return padded(hidden > m->inner ? hidden : m->inner);
}

// A batch that is computed, and its scratch memory. tokens: how many tokens are still computed. These are
// all, then the asked ones, and at the end the `open` ones.
typedef struct {
  const model* m;
  const batch* b;
  int64_t tokens;
  float* hidden;          // [tokens][hidden]: the residual stream
  float* projected;       // [tokens][projected_width]: query, key, value
  void* inputs;           // [tokens][widest]: inputs of the next product, see `store_input`
  void* outputs;          // [tokens][widest]: outputs of attention, or of the MLP's first product
  block* blocks;          // [tokens][blocks_of(widest)]: the inputs of a product with 8-bit weights
  candidate* candidates;  // [threads][asked]
  int32_t* groups;        // the first token of each group that attends together, then the number of tokens
  int64_t group_count;
  int32_t* open;    // [asked]: asked tokens that need the head's product
  int32_t* listed;  // [asked]: asked tokens that get a shortlist
  int64_t listed_count;
  rounded_inputs* rounded;  // [asked]: bounds for each listed token's inputs
  char* numbers;            // [asked][rounded_bytes(hidden)]: each listed token's rounded inputs
  shortlist* lists;         // [threads][asked]: each listed token's shortlists
} pass;

INLINED void* taken(uintptr_t* scratch, int64_t bytes) {
  void* from = (void*)*scratch;
  *scratch += (bytes + 63) / 64 * 64;
  return from;
}

// Divides a batch's scratch memory. Returns where it ends.
static uintptr_t lay_out(pass* p, int64_t tokens, int64_t asked, int64_t threads, uintptr_t scratch) {
  p->hidden = taken(&scratch, tokens * p->m->hidden * 4);
  p->projected = taken(&scratch, tokens * projected_width(p->m) * 4);
  p->inputs = taken(&scratch, tokens * widest(p->m) * 4);
  p->outputs = taken(&scratch, tokens * widest(p->m) * 4);
  const int64_t blocks = p->m->type == INT8 ? tokens * blocks_of(widest(p->m)) : 0;
  p->blocks = taken(&scratch, blocks * (int64_t)sizeof *p->blocks);
  p->candidates = taken(&scratch, threads * asked * (int64_t)sizeof *p->candidates);
  p->groups = taken(&scratch, (tokens + 1) * (int64_t)sizeof *p->groups);
  p->open = taken(&scratch, asked * (int64_t)sizeof *p->open);
  p->listed = taken(&scratch, asked * (int64_t)sizeof *p->listed);
  p->rounded = taken(&scratch, asked * (int64_t)sizeof *p->rounded);
  p->numbers = taken(&scratch, asked * rounded_bytes(p->m->hidden));
  p->lists = taken(&scratch, threads * asked * (int64_t)sizeof *p->lists);
  return scratch;
}

// Groups tokens of a row that attend together, at most MAX_QUERIES queries. Keys and values are read once for
// a group. Returns the number of groups.
static int64_t group_tokens(const model* m, const batch* b, int32_t* groups) {
  const int64_t most = MAX_QUERIES / (m->heads / m->kv_heads);
  int64_t count = 0;
  for (int64_t t = 0; t < b->tokens; t++)
    if (t == 0 || b->rows[t] != b->rows[t - 1] || t - groups[count - 1] == most) groups[count++] = t;
  groups[count] = b->tokens;
  return count;
}

static pass pass_of(const model* m, const batch* b) {
  pass p = {.m = m, .b = b, .tokens = b->tokens};
  lay_out(&p, b->tokens, b->asked_tokens, b->threads, (uintptr_t)b->scratch);
  p.group_count = group_tokens(m, b, p.groups);
  for (int64_t i = 0; i < b->asked_tokens; i++) {
    p.open[i] = i;
    b->best[i] = -1;
    if (b->may_shortlist && b->logit_rows[i] < 0) p.listed[p.listed_count++] = i;
  }
  return p;
}

// Returns where a thread's share of the items begins. It ends where the next thread's begins.
INLINED int64_t share_begin(int64_t items, int64_t thread, int64_t threads) {
  return items * thread / threads;
}
