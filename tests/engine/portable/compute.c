// Computes with random models and prints all results as bits: the same text for every instruction set.
//
// It packs weights as worker/engine/native/decoder.py does, runs prompts and steps of several sequences, and
// draws tokens from logits. It needs no Python, so that it also runs in an emulator.
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

int64_t scratch_bytes(const model* m, int64_t tokens, int64_t asked, int64_t threads);
void decode(const model* m, const layer* layers, const batch* b);
void attend(const void* s, const void* asked, const void* keys, const void* values, const int32_t* lengths,
            void* output, int64_t threads);
int64_t draw_scratch_bytes(int64_t vocab, int64_t threads);
void draw(const float* logits, int64_t rows, int64_t vocab, const void* options, int64_t threads,
          void* scratch, int64_t* tokens);

enum { ROWS = 4, ROOM = 64, VOCAB = 171, LAYERS = 2, THREADS = 2 };

static uint64_t state = 7;

static uint32_t random_bits(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 32;
}

// Uniform in [-scale, scale).
static float random_number(float scale) { return scale * ((float)(random_bits() >> 8) * 0x1p-23f - 1); }

// Zeroed memory that is never freed: the program is short.
static void* memory(int64_t bytes) {
  void* found = calloc(bytes + 64, 1);
  if (!found) exit(1);
  return found;
}

static float* random_numbers(int64_t count, float scale) {
  float* numbers = memory(count * sizeof *numbers);
  for (int64_t i = 0; i < count; i++) numbers[i] = random_number(scale);
  return numbers;
}

static uint16_t bfloat16_of(float value) {
  uint16_t all[LANES];
  to_bfloat16(all_of(value), all);
  return all[0];
}

// In the type of a model's embeddings.
static void* random_elements(int64_t count, int64_t type) {
  char* elements = memory(count * 4);
  for (int64_t i = 0; i < count; i++) {
    if (type == BFLOAT16)
      ((uint16_t*)elements)[i] = bfloat16_of(random_number(1));
    else
      ((float*)elements)[i] = random_number(1);
  }
  return elements;
}

static linear random_linear(int64_t out, int64_t in, int64_t type, int has_bias) {
  linear l = {.out = out, .in = in};
  const int64_t neighbours = row_inputs(type), padded_out = panels_of(&l) * PANEL;
  char* panels = memory(panels_of(&l) * panel_bytes(&l, type));
  float *bias = memory(padded_out * sizeof *bias), *scales = memory(padded_out * sizeof *scales);
  for (int64_t o = 0; o < out; o++) {
    for (int64_t i = 0; i < in; i++) {
      const float weight = random_number(0.3f);
      const int64_t row = o / PANEL * (in / neighbours) + i / neighbours;
      const int64_t at = (row * PANEL + o % PANEL) * neighbours + i % neighbours;
      if (type == FLOAT32) ((float*)panels)[at] = weight;
      if (type == BFLOAT16) ((uint16_t*)panels)[at] = bfloat16_of(weight);
      if (type == INT8) ((int8_t*)panels)[at] = (int8_t)(weight * 400);
    }
    bias[o] = random_number(0.1f);
    scales[o] = 0.0025f + random_number(0.001f);
  }
  l.panels = panels;
  if (has_bias) l.bias = bias;
  if (type == INT8) l.scales = scales;
  return l;
}

static norm random_norm(int64_t width, int has_bias) {
  return (norm){random_numbers(width, 1), has_bias ? random_numbers(width, 0.1f) : NULL};
}

// Like OPT, or like Llama with the norms of Qwen3.
static model random_model(int64_t type, int64_t head_dim, int64_t activation, layer* layers) {
  const int is_llama = activation == SILU;
  model m = {.layers = LAYERS, .hidden = 96, .heads = 4, .kv_heads = is_llama ? 2 : 4, .head_dim = head_dim};
  m.inner = 336;  // More than a block of inputs, and not a multiple of a block.
  m.type = type;
  m.is_rms = is_llama;
  m.activation = activation;
  m.epsilon = 1e-5f;
  m.scale = 1 / sqrtf(head_dim);
  for (int64_t i = 0; i < LAYERS; i++) {
    layer* l = &layers[i];
    l->attention_norm = random_norm(m.hidden, !is_llama);
    l->mlp_norm = random_norm(m.hidden, !is_llama);
    if (is_llama) l->query_norm = random_norm(head_dim, 0);
    if (is_llama) l->key_norm = random_norm(head_dim, 0);
    l->projections[0] = random_linear(query_width(&m), m.hidden, type, !is_llama);
    l->projections[1] = random_linear(kv_width(&m), m.hidden, type, !is_llama);
    l->projections[2] = random_linear(kv_width(&m), m.hidden, type, !is_llama);
    l->attention_output = random_linear(m.hidden, query_width(&m), type, !is_llama);
    if (is_llama) l->gate = random_linear(m.inner, m.hidden, type, 0);
    l->up = random_linear(m.inner, m.hidden, type, !is_llama);
    l->down = random_linear(m.hidden, m.inner, type, !is_llama);
  }
  m.final_norm = random_norm(m.hidden, !is_llama);
  m.embeddings = random_elements(VOCAB * m.hidden, type);
  if (!is_llama) m.positions = random_elements(ROOM * m.hidden, type);
  m.head = random_linear(VOCAB, m.hidden, type, 0);
  return m;
}

static void print_floats(const char* name, const float* values, int64_t count) {
  printf("%s", name);
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, values + i, sizeof bits);
    printf(" %08x", bits);
  }
  printf("\n");
}

// Runs `count` tokens of each row from `start` on. Every second row wants logits, and odd rows draw a token.
static void run(const model* m, const layer* layers, const row_states* cache, int64_t start, int64_t count) {
  const int64_t tokens = ROWS * count;
  int32_t token_ids[tokens], rows[tokens], positions[tokens], asked[ROWS], logit_rows[ROWS];
  noise noises[ROWS] = {0};
  int64_t best[ROWS], answered = 0, layers_done = 0;
  for (int64_t t = 0; t < tokens; t++) {
    token_ids[t] = random_bits() % VOCAB;
    rows[t] = t / count;
    positions[t] = start + t % count;
  }
  for (int64_t r = 0; r < ROWS; r++) {
    asked[r] = (r + 1) * count - 1;
    logit_rows[r] = r % 2 ? -1 : r / 2;
    if (r % 2) noises[r] = (noise){1.25f, random_bits(), random_bits()};
  }
  float* logits = memory(ROWS / 2 * VOCAB * sizeof *logits);
  const batch b = {
      .tokens = tokens,
      .asked_tokens = ROWS,
      .threads = THREADS,
      .cache = cache,
      .token_ids = token_ids,
      .rows = rows,
      .positions = positions,
      .asked = asked,
      .logit_rows = logit_rows,
      .noises = noises,
      .cosines = m->is_rms ? random_numbers(ROOM * m->head_dim, 1) : NULL,
      .sines = m->is_rms ? random_numbers(ROOM * m->head_dim, 1) : NULL,
      .logits = logits,
      .best = best,
      .answered = &answered,
      .layers_done = &layers_done,
      .scratch = memory(scratch_bytes(m, tokens, ROWS, THREADS)),
  };
  decode(m, layers, &b);
  print_floats("logits", logits, ROWS / 2 * VOCAB);
  printf("best");
  for (int64_t r = 0; r < ROWS; r++) printf(" %d", (int)best[r]);
  printf("\n");
}

static void run_model(int64_t type, int64_t head_dim, int64_t activation) {
  printf("model %d %d %d\n", (int)type, (int)head_dim, (int)activation);
  layer layers[LAYERS + 1] = {0};
  const model m = random_model(type, head_dim, activation, layers);
  const int64_t row_bytes = LAYERS * 2 * m.kv_heads * ROOM * head_dim * (type == BFLOAT16 ? 2 : 4);
  row_states cache[ROWS];
  for (int64_t r = 0; r < ROWS; r++) cache[r] = (row_states){memory(row_bytes), ROOM};
  run(&m, layers, cache, 0, 37);
  run(&m, layers, cache, 37, 5);
  for (int64_t position = 42; position < 45; position++) run(&m, layers, cache, position, 1);
}

// The same as `row_options` of sampling.c.
typedef struct {
  noise drawn;
  float top_p, min_p;
  int64_t top_k;
} options;

static void draw_tokens(int64_t vocab) {
  enum { DRAWN = 12 };
  options all[DRAWN];
  int64_t tokens[DRAWN];
  for (int64_t i = 0; i < DRAWN; i++)
    all[i] = (options){
        {0.7f + i % 3, random_bits(), random_bits()}, i % 2 ? 0.8f : 1, i % 3 ? 0 : 0.05f, i % 4 * 9};
  void* scratch = memory(draw_scratch_bytes(vocab, THREADS));
  draw(random_numbers(DRAWN * vocab, 4), DRAWN, vocab, all, THREADS, scratch, tokens);
  printf("drawn");
  for (int64_t i = 0; i < DRAWN; i++) printf(" %d", (int)tokens[i]);
  printf("\n");
}

static void print_functions(void) {
  enum { COUNT = 64 * WIDE };
  float* from = random_numbers(COUNT, 20);
  float* to = memory(4 * COUNT * sizeof *to);
  for (int64_t i = 0; i < COUNT; i += LANES) {
    const floats x = *(const floats*)(from + i);
    *(floats*)(to + i) = exp_of(x);
    *(floats*)(to + COUNT + i) = log_of(x * x + 1e-6f);
    *(floats*)(to + 2 * COUNT + i) = erf_of(x / 8);
    *(floats*)(to + 3 * COUNT + i) = tanh_of(x / 8);
  }
  print_floats("functions", to, 4 * COUNT);
}

int main(void) {
  static const int64_t head_dims[] = {16, 80, 128};
  for (int64_t type = FLOAT32; type <= INT8; type++)
    for (int64_t i = 0; i < 3; i++)
      for (int64_t activation = RELU; activation <= SILU; activation++)
        run_model(type, head_dims[i], activation);
  draw_tokens(VOCAB);
  draw_tokens(3000);
  print_functions();
}
