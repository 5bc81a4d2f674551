#include "weight.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace intaglio {

namespace {
constexpr size_t LINE = 64, HUGE = size_t{1} << 21;
// Taken from the system at once; what is not used of it costs no memory.
constexpr size_t CHUNK = 32 * HUGE;
// What a tile may read beyond the last column; rows beyond the last are added where buffers are reserved.
constexpr size_t BEYOND = 4 * LINE;

// In huge pages if they fill more than half of one.
char *allocate(size_t bytes) {
  const size_t unit = 2 * bytes > HUGE ? HUGE : LINE;
  bytes = (bytes + unit - 1) / unit * unit;
  auto *found = static_cast<char *>(std::aligned_alloc(unit, bytes));
  if (!found) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (unit == HUGE) madvise(found, bytes, MADV_HUGEPAGE);
#endif
  return found;
}
}  // namespace

void Free::operator()(void *memory) const { std::free(memory); }

void *Pages::take(size_t bytes) {
  bytes = (bytes + BEYOND + LINE - 1) / LINE * LINE;
  if (bytes > left_) {
    left_ = std::max(bytes, CHUNK);
    chunks_.emplace_back(allocate(left_));
    size_ = left_;
  }
  char *found = chunks_.back().get() + size_ - left_;
  left_ -= bytes;
  return std::memset(found, 0, bytes);
}

template <class T> T *Buffer<T>::reserve(size_t count) {
  if (count > count_ || !memory_) {
    const size_t bytes = count * sizeof(T) + BEYOND;
    memory_.reset(reinterpret_cast<T *>(allocate(bytes)));
    std::memset(memory_.get(), 0, bytes);
    count_ = count;
  }
  return memory_.get();
}

template class Buffer<int8_t>;
template class Buffer<uint8_t>;
template class Buffer<uint16_t>;
template class Buffer<int32_t>;
template class Buffer<int64_t>;
template class Buffer<float>;

PackedWeight::PackedWeight(const Kernels &kernels, Threads &threads, const int8_t *values, const int32_t *bias, int in,
                           int out, int zero, Pages *pages) {
  Weight &w = weight_;
  w.in = in, w.out = out;
  w.zero = zero, w.largest = INT8_MAX + zero;
  w.quads = padded((in + QUAD - 1) / QUAD, kernels.quads);
  w.panels = padded((out + PANEL - 1) / PANEL, kernels.panels);
  const ptrdiff_t size = static_cast<ptrdiff_t>(w.quads) * QUAD * PANEL;
  const size_t bytes = static_cast<size_t>(w.panels) * size;
  auto *to = pages ? static_cast<int8_t *>(pages->take(bytes)) : values_.reserve(bytes);
  int32_t *biases = bias_.reserve(static_cast<size_t>(w.panels) * PANEL);
  w.values = to;
  w.bias = biases;
  if (kernels.order) {
    w.order = order_.reserve(static_cast<size_t>(w.panels) * w.quads);
    w.ends = ends_.reserve(static_cast<size_t>(w.panels) * ENDS);
  }
  threads.run(w.panels, [&](int panel, int) {
    int8_t *quads = to + panel * size;
    for (int column = panel * PANEL; column < std::min(out, (panel + 1) * PANEL); column++) {
      const int8_t *from = values + static_cast<ptrdiff_t>(column) * in;
      int8_t *place = quads + column % PANEL * QUAD;
      int32_t total = 0;
      for (int i = 0; i < in; i++) total += from[i];
      for (int quad = 0; quad < in / QUAD; quad++) std::memcpy(place + quad * PANEL * QUAD, from + quad * QUAD, QUAD);
      for (int i = in / QUAD * QUAD; i < in; i++) place[i / QUAD * PANEL * QUAD + i % QUAD] = from[i];
      biases[column] = (bias ? bias[column] : 0) - zero * total;
    }
    if (kernels.order)
      kernels.order(w, quads, biases + panel * PANEL, order_.data() + panel * w.quads, ends_.data() + panel * ENDS);
  });
}

template <class To, class From> Buffer<To> padded_vector(const From *values, int count) {
  Buffer<To> found(padded(count, 4 * PANEL));
  for (int i = 0; i < count; i++) found.data()[i] = static_cast<To>(values[i]);
  return found;
}

template Buffer<float> padded_vector(const float *, int);
template Buffer<int32_t> padded_vector(const int32_t *, int);
template Buffer<int64_t> padded_vector(const int64_t *, int);
template Buffer<uint8_t> padded_vector(const int8_t *, int);

}  // namespace intaglio
