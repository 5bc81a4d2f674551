// The library's functions, called by intaglio.native.library. Those that can fail return null or -1 and leave a message.
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <string>

#include "model.hpp"
#include "multiply.hpp"
#include "processor.hpp"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace intaglio;

namespace {

thread_local std::string message;

template <class Function> auto guarded(Function function, decltype(function()) failed) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception &error) {
    message = error.what();
    return failed;
  }
}

const Kernels &chosen(const char *instructions) {
  const Kernels *found = kernels_named(instructions);
  if (!found) throw std::runtime_error(std::string(instructions) + ": not an instruction set that this processor has");
  return *found;
}

// A product with a weight, for rows of int8.
struct Product {
  const Kernels &kernels;
  PackedWeight weight;
  Threads &threads;
};

// The pool that all products with this number of threads share.
Threads &shared_threads(int count, Parallel parallel) {
  static std::mutex changing;
  static std::map<std::pair<int, Parallel>, Threads *> pools;   // never freed: a process may end in any of its threads
  const std::lock_guard<std::mutex> guard(changing);
  Threads *&pool = pools[{count, parallel}];
  if (!pool) pool = new Threads(count, parallel);
  return *pool;
}

}  // namespace

EXPORTED const char *intaglio_message() { return message.c_str(); }

// Names of the instruction sets that this processor has, the fastest first, separated by spaces.
EXPORTED const char *intaglio_instructions() {
  static std::string names;
  if (names.empty())
    for (const Kernels *kernels : available()) names.append(names.empty() ? "" : " ").append(kernels->name);
  return names.c_str();
}

EXPORTED Constants *intaglio_constants() { return new Constants; }

EXPORTED void intaglio_constants_free(Constants *constants) { delete constants; }

EXPORTED void intaglio_number(Constants *constants, const char *name, double value) { constants->numbers[name] = value; }

EXPORTED void intaglio_tensor(Constants *constants, const char *name, const void *data, const int64_t *sizes, int count) {
  constants->tensors[name] = {data, std::vector<int64_t>(sizes, sizes + count)};
}

EXPORTED Model *intaglio_model(const Constants *constants, const char *instructions, int threads) {
  return guarded([&] { return new Model(*constants, chosen(instructions), threads); }, nullptr);
}

EXPORTED void intaglio_model_free(Model *model) { delete model; }

EXPORTED const char *intaglio_model_instructions(const Model *model) { return model->instructions(); }

// The name of an operator, and how often and how long (in ms) a model has run it; null after the last operator.
EXPORTED const char *intaglio_operator(const Model *model, int which, int64_t *calls, double *milliseconds) {
  if (which >= OPERATOR_COUNT) return nullptr;
  *calls = model->spent(which).calls;
  *milliseconds = static_cast<double>(model->spent(which).nanoseconds) / 1e6;
  return OPERATORS[which];
}

EXPORTED int intaglio_model_labels(const Model *model) { return model->labels(); }

EXPORTED int intaglio_run(Model *model, const int64_t *ids, const int64_t *mask, const int64_t *types, int batch, int length,
                          float *logits, float *hidden) {
  return guarded([&] { return model->run(ids, mask, types, batch, length, logits, hidden), 0; }, -1);
}

// `parallel` is GOMP_parallel of the process, or null for threads of our own.
EXPORTED Product *intaglio_product(const char *instructions, int threads, Parallel parallel, const int8_t *weight,
                                   const int32_t *bias, int in, int out) {
  return guarded(
      [&] {
        const Kernels &kernels = chosen(instructions);
        Threads &pool = shared_threads(threads, parallel);
        return new Product{kernels, PackedWeight(kernels, pool, weight, bias, in, out), pool};
      },
      nullptr);
}

EXPORTED void intaglio_product_free(Product *product) { delete product; }

// y = x . weight + bias, [rows][out] as float32, which holds the sums, of int8 [rows][in].
EXPORTED int intaglio_multiply(Product *product, const int8_t *x, int rows, float *y) {
  return guarded(
      [&] {
        const Weight &weight = product->weight;
        const int width = weight.in;
        const ptrdiff_t stride = padded(width, 64);
        thread_local Buffer<uint8_t> memory;
        uint8_t *shifted = memory.reserve(static_cast<size_t>(rows + ROWS) * stride);
        constexpr int BLOCK = 16;
        product->threads.run(divided(rows, BLOCK), [&](int task, int) {
          // Of its own: a byte that is written could be part of what is reached through a reference.
          const int in = width;
          for (ptrdiff_t row = task * BLOCK; row < std::min(rows, (task + 1) * BLOCK); row++) {
            const int8_t *from = x + row * in;
            uint8_t *to = shifted + row * stride;
            for (int i = 0; i < in; i++) to[i] = static_cast<uint8_t>(from[i]) ^ 0x80;
          }
        });
        Epilogue e{Epilogue::REAL, y, weight.out};
        multiply(product->kernels, product->threads, weight, shifted, stride, rows, e);
        return 0;
      },
      -1);
}

EXPORTED int intaglio_softmax(const char *instructions, const int32_t *constants, const int32_t *scores, int rows, int keys,
                              uint8_t *shares) {
  return guarded(
      [&] {
        Softmax softmax;
        softmax.down = constants[0], softmax.top = constants[1];
        softmax.multiplier = constants[2], softmax.shift = constants[3];
        std::vector<int32_t> own(scores, scores + static_cast<size_t>(rows) * keys);
        chosen(instructions).softmax(softmax, own.data(), keys, rows, keys, shares, keys);
        return 0;
      },
      -1);
}

EXPORTED int intaglio_norm(const char *instructions, const int32_t *gamma, const int32_t *beta, const int64_t *guards,
                           int short_shift, const int32_t *x, int rows, int width, int32_t *wide, int8_t *narrow) {
  return guarded(
      [&] {
        Norm norm;
        norm.width = width, norm.gamma = gamma, norm.beta = beta, norm.guards = guards;
        norm.shortens = true, norm.short_shift = short_shift;
        auto *bytes = reinterpret_cast<uint8_t *>(narrow);
        chosen(instructions).norm(norm, x, width, wide, width, bytes, width, rows);
        for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(rows) * width; i++) bytes[i] ^= 0x80;
        return 0;
      },
      -1);
}

// LayerNorm of integers carried by float32, [rows][width].
EXPORTED int intaglio_norm_for_training(const char *instructions, int threads, Parallel parallel, const int32_t *gamma,
                                        const int32_t *beta, const int64_t *guards, const float *x, int rows, int width,
                                        float *result, float *deviations, float *multiplier, float *down) {
  return guarded(
      [&] {
        const Kernels &kernels = chosen(instructions);
        Norm norm;
        norm.width = width, norm.gamma = gamma, norm.beta = beta, norm.guards = guards;
        constexpr int BLOCK = 16;
        shared_threads(threads, parallel).run(divided(rows, BLOCK), [&](int task, int) {
          const ptrdiff_t first = task * BLOCK, place = first * width;
          kernels.norm_for_training(norm, x + place, std::min(BLOCK, rows - task * BLOCK),
                                    {result + place, deviations + place, multiplier + first, down + first});
        });
        return 0;
      },
      -1);
}
