// The integer encoder and its head, from the constants of a checkpoint to logits.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"
#include "weight.hpp"

namespace intaglio {

struct Tensor {
  const void *data;
  std::vector<int64_t> sizes;
};

// Tensors and numbers of a model by name. Memory belongs to the caller; that of embedding tables must outlive the model.
struct Constants {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, double> numbers;

  const Tensor *find(const std::string &name) const;
  const Tensor &tensor(const std::string &name) const;
  double number(const std::string &name) const;
  bool has(const std::string &name) const { return numbers.count(name) || tensors.count(name); }
};

struct LinearLayer {
  PackedWeight weight;
  Buffer<float> scale;
  Buffer<int32_t> multiplier;
  int shift = 0;
};

struct NormLayer {
  Norm norm;
  Buffer<float> real_gamma, real_beta;
  Buffer<int32_t> gamma, beta;
  Buffer<int64_t> guards;
};

struct Layer {
  LinearLayer projections, attention_output, intermediate, output;
  Buffer<float> projections_multiplier, context_multiplier, gelu_scale;
  Buffer<uint8_t> gelu_table;
  bool integer_gelu = true;
  int gelu_zero_point = 0, heads = 0, attention_skip = 0, output_skip = 0;
  float gelu_inverse = 0;
  Softmax softmax;
  NormLayer attention_norm, output_norm;
};

struct Embeddings {
  std::vector<const int8_t *> tables;
  std::vector<int64_t> rows;
  // Of each table, one or one for each row.
  std::vector<std::vector<int32_t>> multipliers;
  int width = 0, padding_index = 0;
  bool positions_from_padding = false, projected = false;
  float scale = 0;
  NormLayer norm;
  LinearLayer projection;
  int projection_shift = 0;
  float projection_inverse = 0;
};

struct Head {
  enum Activation { TANH, RELU, GELU };
  Buffer<float> dense_weight, dense_bias, output_weight, output_bias;
  Activation activation = TANH;
  int labels = 0;
  // Whether it is one layer over every token, and the logit of padding then.
  bool every_token = false;
  float padding = 0;
};

// A part of a batch without its padding. A sequence has its first token and all that the mask keeps.
struct Tokens {
  struct Sequence {
    int first, count;   // its tokens
    int first_key;      // 1 if its first token is padding, which is not attended to
    bool blind;         // whether it is nothing but padding: then all positions are equal
  };
  std::vector<Sequence> sequences;
  std::vector<int64_t> ids, positions, types;
  std::vector<ptrdiff_t> places;   // in the batch; -1 for padding
  int longest = 0;
};

// The operators of a model, by which its time is divided.
constexpr const char *OPERATORS[] = {"embeddings", "projections",  "attention", "linear + residual",
                                     "LayerNorm",  "linear + GELU", "head"};
enum Operator { EMBEDDINGS, PROJECTIONS, ATTENTION, LINEAR_SUM, LAYER_NORM, LINEAR_GELU, HEAD, OPERATOR_COUNT };

struct Spent {
  int64_t calls = 0, nanoseconds = 0;
};

class Model {
 public:
  Model(const Constants &, const Kernels &, int threads);

  int labels() const { return head_.labels; }
  const char *instructions() const { return kernels_.name; }

  // Calls and time of each operator so far.
  const Spent &spent(int which) const { return spent_[which]; }

  // ids, mask, types: int64 [batch][length]; no mask means no padding, no types mean type 0. Writes logits
  // [batch][labels] and, unless null, the input of the head, hidden [batch][width]; with a head over every token, both
  // are [batch][length][...]. Calls wait for each other.
  void run(const int64_t *ids, const int64_t *mask, const int64_t *types, int batch, int length, float *logits,
           float *hidden);

 private:
  // Values of the residual stream are int32, or float32 where LayerNorm is in floating point; both have four bytes.
  struct Rows {
    int32_t *wide;
    uint8_t *narrow;
    int count;
  };

  // Counts the time from its construction to its end as an operator's.
  class Clock {
   public:
    explicit Clock(Spent &spent) : spent_(spent), start_(std::chrono::steady_clock::now()) {}
    ~Clock() {
      spent_.calls++;
      spent_.nanoseconds += (std::chrono::steady_clock::now() - start_).count();
    }

   private:
    Spent &spent_;
    std::chrono::steady_clock::time_point start_;
  };

  int take(const int64_t *ids, const int64_t *mask, const int64_t *types, int first, int batch, int length,
           Tokens &) const;
  void reserve(const Tokens &);
  void embed(const Tokens &, Rows);
  void project(Rows);
  void layer(const Layer &, const Tokens &, Rows all, Rows some, bool last);
  void attend(const Layer &, const Tokens &, bool last);
  void first_tokens(const Tokens &, Rows from, Rows to);
  void sum(const LinearLayer &, const uint8_t *x, int stride, int skip, const int32_t *residual, int rows,
           const NormLayer &, int32_t *out);
  void normalize(const NormLayer &, const int32_t *x, int32_t *wide, uint8_t *narrow, int rows);
  void multiply(const Weight &, const uint8_t *x, int stride, int rows, const Epilogue &, int first_panel = 0,
                int last_panel = 0);
  void real(const int32_t *wide, float *out) const;
  void classify(const float *hidden, int batch, float *logits);
  void find_answers(const float *hidden, const int64_t *mask, int rows, float *logits);

  const Kernels &kernels_;
  Threads threads_;
  bool integer_;   // LayerNorm, and with it the residual stream
  int width_, head_width_, short_stride_, attention_stride_, middle_stride_;
  float scale_;
  Pages pages_;
  Embeddings embeddings_;
  std::vector<Layer> layers_;
  Head head_;

  Buffer<int32_t> wide_, sums_, first_wide_;
  Buffer<uint8_t> narrow_, first_narrow_, projections_, first_projections_, context_, middle_;
  Buffer<float> dense_;
  struct ThreadMemory {
    Buffer<int8_t> packed;
    Buffer<int32_t> bias, ends, scores;
    Buffer<uint16_t> order;
    Buffer<uint8_t> shares;
    Scratch scratch;
  };
  std::vector<ThreadMemory> memory_;
  Spent spent_[OPERATOR_COUNT];
  std::mutex running_;
};

}  // namespace intaglio
