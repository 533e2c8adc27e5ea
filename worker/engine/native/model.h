// A model's weights, a batch of tokens, and the memory that a batch needs on its way through the model.
#pragma once

#include <stddef.h>

#include "attention.h"
#include "elementwise.h"
#include "shortlist.h"

// projections: to query, key and value side by side, by one layer or by three. gate: out = 0 where there is
// none.
typedef struct {
  norm attention_norm, query_norm, key_norm, mlp_norm;
  linear projections[3], attention_output, gate, up, down;
} layer;

// query_norm and key_norm are of each head, in layers that have them. type: a weight_type. scale: of a query.
typedef struct {
  int64_t layers, hidden, heads, kv_heads, head_dim, inner, type, is_rms, activation;
  float epsilon, scale;
  norm final_norm;
  linear head;
  rounded_weights rounded_head;
} model;

// A row of the cache: elements [layers][keys, values][kv_heads][room][head_dim].
typedef struct {
  char* states;
  int64_t room;
} row_states;

// cache: all rows, which have room for the tokens. rows, positions: of each token; tokens of one row stand
// side by side, in order. asked: the tokens whose next token is wanted, in order. noises: how each of these
// is drawn. best: the next tokens, argmax of the logits or of the noisy logits, ties to the lowest id, or -1
// where the highest is not finite. logit_rows: where the logits go, -1 where nobody wants them.
// may_shortlist: whether `rounded_head` may spare the head's product for tokens whose logits nobody wants;
// answered: for how many it did. cosines, sines: [tokens, head_dim], NULL where positions are in the
// embeddings. hidden: [tokens, hidden], float32, the embeddings; it is overwritten. layers_done: counts on,
// for other threads to see that the pass moves on. scratch: `scratch_bytes` of it.
typedef struct {
  int64_t tokens, asked_tokens, threads, may_shortlist;
  const row_states* cache;
  const int32_t *rows, *positions, *asked, *logit_rows;
  const noise* noises;
  const float *cosines, *sines;
  float *hidden, *logits;
  int64_t *best, *answered, *layers_done;
  char* scratch;
} batch;

INLINED int64_t is_bfloat16(const model* m) { return m->type == BFLOAT16; }

// Elements from token to token: a line of the cache more than a power of two, or all would want the same
// place.
INLINED int64_t padded(int64_t width) { return (width + WIDE - 1) / WIDE * WIDE + 2 * WIDE; }

INLINED int64_t query_width(const model* m) { return m->heads * m->head_dim; }
INLINED int64_t kv_width(const model* m) { return m->kv_heads * m->head_dim; }
INLINED int64_t projected_width(const model* m) { return padded(query_width(m) + 2 * kv_width(m)); }
INLINED int64_t widest(const model* m) {
  const int64_t hidden = m->hidden > query_width(m) ? m->hidden : query_width(m);
  return padded(hidden > m->inner ? hidden : m->inner);
}

// A batch on its way through the model, and what lies in its scratch memory. tokens: those still on their
// way; in the end `open`, indices of `asked`.
typedef struct {
  const model* m;
  const batch* b;
  int64_t tokens;
  float* projected;       // [tokens][projected_width]: query, key, value
  void* inputs;           // [tokens][widest]: of the next product, see `store_input`
  void* outputs;          // the same: of attention, or between the products of the MLP
  block* blocks;          // [tokens][blocks_of(widest)]: the inputs of a product with weights of 8 bits
  candidate* candidates;  // [threads][asked]
  int32_t* groups;        // first tokens of those that attend together, and the end
  int64_t group_count;
  int32_t* open;    // [asked]: those whose best token the head's product has to find
  int32_t* listed;  // [asked]: those who get a shortlist
  int64_t listed_count;
  rounded_inputs* rounded;  // [asked]: of those listed
  char* numbers;            // [asked][rounded_bytes(hidden)]: the same
  shortlist* lists;         // [threads][asked]: the same
} pass;

INLINED void* taken(uintptr_t* scratch, int64_t bytes) {
  void* from = (void*)*scratch;
  *scratch += (bytes + 63) / 64 * 64;
  return from;
}

// Lays a batch's scratch memory out. Returns where it ends.
static uintptr_t lay_out(pass* p, int64_t tokens, int64_t asked, int64_t threads, uintptr_t scratch) {
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

// Tokens of a row attend together, as many as their queries fit: keys and values are read once for them.
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

// A thread's share of so many items begins here, and ends where the next one's begins.
INLINED int64_t share_begin(int64_t items, int64_t thread, int64_t threads) {
  return items * thread / threads;
}
