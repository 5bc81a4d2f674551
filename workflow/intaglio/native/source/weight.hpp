// Weights packed for an instruction set, with their own memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace intaglio {

struct Free {
  void operator()(void *memory) const;
};

// Memory for all weights of a model, freed with it: together they fill huge pages, where the system has them. A small page
// ends the prefetching of weights every 4 KiB, and its address has to be looked up.
class Pages {
 public:
  // Zeros, aligned to cache lines.
  void *take(size_t bytes);

 private:
  std::vector<std::unique_ptr<char, Free>> chunks_;
  size_t size_ = 0, left_ = 0;  // of the last chunk
};

// Memory aligned to cache lines, with room for what tiles read beyond the end.
template <class T> class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { reserve(count); }

  T *reserve(size_t count);
  T *data() const { return memory_.get(); }

 private:
  std::unique_ptr<T, Free> memory_;
  size_t count_ = 0;
};

class PackedWeight {
 public:
  PackedWeight() = default;
  // values: int8 [out][in]; bias: int32 [out]; zero: the zero point of x; pages: they outlive it; its own memory without.
  PackedWeight(const Kernels &, Threads &, const int8_t *values, const int32_t *bias, int in, int out,
               int zero = ZERO, Pages *pages = nullptr);

  operator const Weight &() const { return weight_; }
  const Weight *operator->() const { return &weight_; }

 private:
  Weight weight_;
  Buffer<int8_t> values_;
  Buffer<int32_t> bias_, ends_;
  Buffer<uint16_t> order_;
};

// A vector of `count` entries, padded with zeros to whole panels.
template <class To, class From> Buffer<To> padded_vector(const From *values, int count);

}  // namespace intaglio
