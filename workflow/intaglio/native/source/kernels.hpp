// What every instruction set implements: products of bytes with what follows them, softmax, LayerNorm and attention.
//
// Activations are bytes with zero point 128, in rows; weights are int8. The arithmetic is that of docs/arithmetic.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

constexpr int QUAD = 4;     // rows of a weight that lie side by side, as instructions for dot products take them
constexpr int PANEL = 16;   // columns of a weight that lie side by side
constexpr int ZERO = 128;   // zero point of activations, but for results of GELU, which are hardly negative
constexpr int ENDS = 4;     // kinds of quads, less the last (order.inl)
constexpr int ROWS = 32;    // rows that a tile may read beyond the last one of its input, and rows of an attention block

// An int8 matrix [in, out] in panels: values[panel][quad][column of the panel][row of the quad], zero beyond its sizes.
struct Weight {
  int in = 0, out = 0;
  int quads = 0, panels = 0;
  int zero = ZERO, largest = 255;   // zero point, and largest byte, of what it is multiplied by
  const int8_t *values = nullptr;
  // [panels * PANEL]: the bias, less the zero point times the sum of each column that is multiplied by bytes with it
  const int32_t *bias = nullptr;
  // For instruction sets that sum pairs of products in 16 bits: the place in x of every quad, [panels][quads], and the
  // ends of the kinds of quads of each panel, [panels][ENDS] (order.inl). Null where all products are exact.
  const uint16_t *order = nullptr;
  const int32_t *ends = nullptr;
};

// What becomes of accumulators. Arrays have an entry per column, padded to whole panels.
struct Epilogue {
  enum Kind { ACCUMULATORS, REAL, SHORT, GELU, SUM, REAL_SUM, REAL_GELU } kind = ACCUMULATORS;
  void *out = nullptr;        // int32 (ACCUMULATORS, SUM), bytes (SHORT, GELU, REAL_GELU) or float32 (REAL, REAL_SUM)
  ptrdiff_t out_stride = 0;   // in elements
  const float *scale = nullptr;        // SHORT, GELU: multiplier; REAL_*: the real value of one in an accumulator
  const int32_t *multiplier = nullptr; // SUM
  int shift = 0, skip = 0;             // SUM: of accumulators; of the residual
  const void *residual = nullptr;      // SUM: int32; REAL_SUM: float32; null for none
  ptrdiff_t residual_stride = 0;
  const uint8_t *table = nullptr;      // GELU: 256 entries
  int zero_point = 0;                  // GELU: of the codes
  float inverse = 0;                   // REAL_GELU: 1 / scale of the result
};

struct Norm {
  bool integer = true;
  int width = 0;
  const int32_t *gamma = nullptr, *beta = nullptr;           // integer
  const float *real_gamma = nullptr, *real_beta = nullptr;   // floating point
  const int64_t *guards = nullptr;
  float epsilon = 0;
  bool shortens = false;   // whether there is an 8-bit result
  int short_shift = 0;
  float inverse = 0;
};

// LayerNorm's results for training, as float32.
struct TrainedNorm {
  float *result;       // [rows][width], NaN where a row has one
  float *deviations;   // [rows][width], shortened
  float *multiplier;   // [rows], from shortened deviations to normalized values
  float *down;         // [rows], the power of two by which deviations are shortened
};

struct Softmax {
  bool integer = true;
  int down = 0, top = 0, multiplier = 0, shift = 0;
  float scale = 0, factor = 0;
};

// One head of one sequence.
struct Attention {
  const uint8_t *query, *key, *value;   // rows of the head's columns
  ptrdiff_t stride;
  int queries, keys, width;
  bool blind;   // all scores are equal, as in a sequence of nothing but padding
  Softmax softmax;
  const float *multiplier;   // of the context, [width]
  uint8_t *out;
  ptrdiff_t out_stride;
};

// Working memory of a thread, for sequences of up to `keys` tokens and heads of up to `width`.
struct Scratch {
  int8_t *packed;       // [pad(keys) * pad(width)], twice
  int32_t *bias;        // [pad(max(keys, width))]
  uint16_t *order;      // [panels of keys][quads of width]
  int32_t *ends;        // [panels of keys and of the width][ENDS]
  int32_t *scores;      // [ROWS][pad(keys)]
  uint8_t *shares;      // [2 * ROWS][pad(keys)]
};

struct Kernels {
  const char *name;
  // Orders the quads of a panel in place where sums of pairs may saturate; null where they cannot.
  void (*order)(const Weight &, int8_t *quads, int32_t *bias, uint16_t *order, int32_t *ends);
  int quads;        // the number of quads of a weight is a multiple of this
  int panels;       // the same of its panels
  void (*product)(const Weight &, const uint8_t *x, ptrdiff_t stride, int first_row, int last_row, int first_panel,
                  int last_panel, const Epilogue &);
  void (*attend)(const Attention &, const Scratch &);
  void (*norm)(const Norm &, const void *x, ptrdiff_t stride, void *wide, ptrdiff_t wide_stride, uint8_t *narrow,
               ptrdiff_t narrow_stride, int rows);
  void (*norm_for_training)(const Norm &, const float *x, int rows, const TrainedNorm &);
  void (*softmax)(const Softmax &, const int32_t *scores, ptrdiff_t stride, int rows, int keys, uint8_t *shares,
                  ptrdiff_t shares_stride);
  // y[row][column] = weight[column] . x[row] + bias[column] in floating point, for some columns.
  void (*dense)(const float *weight, const float *bias, int in, int out, const float *x, int rows, int first_column,
                int last_column, float *y);
};

// Those of other processors than x86 are only GENERIC.
extern const Kernels *const GENERIC, *const AVX2, *const AVX_VNNI, *const AVX512_VNNI, *const AMX;

inline int padded(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

}  // namespace intaglio
