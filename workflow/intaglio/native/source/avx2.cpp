// AVX2: vpmaddubsw sums pairs of products in 16 bits, which saturate, so there are three ways to multiply (order.inl).
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 8, TILE_ROWS = 4, TILE_PANELS = 1, QUADS = 1;
#include "simd.inl"
#include "rows.inl"
#include "order.inl"
constexpr bool SATURATES = true;

inline void prepare() {}

inline __m256i four(const uint8_t *from) {
  return _mm256_set1_epi32(load<int32_t>(from));
}

inline __m256i added(__m256i sums, __m256i bytes, __m256i weights) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, weights);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride,
                                    int32_t *out) {
  const int8_t *b = w.values + static_cast<ptrdiff_t>(panel) * w.quads * PANEL * QUAD;
  const uint16_t *order = w.order + static_cast<ptrdiff_t>(panel) * w.quads;
  const int32_t *ends = w.ends + 2 * panel;
  __m256i sums[R][2] = {};
  int quad = 0;
  for (; quad < ends[0]; quad++, b += PANEL * QUAD) {
    const __m256i b0 = load<__m256i>(b), b1 = load<__m256i>(b + 32);
    const uint8_t *from = x + QUAD * order[quad];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = four(from + r * stride);
      sums[r][0] = added(sums[r][0], a, b0);
      sums[r][1] = added(sums[r][1], a, b1);
    }
  }
  const __m256i zero_point = _mm256_set1_epi8(static_cast<char>(w.zero));
  for (; quad < ends[1]; quad++, b += PANEL * QUAD) {
    const __m256i b0 = load<__m256i>(b), b1 = load<__m256i>(b + 32);
    const uint8_t *from = x + QUAD * order[quad];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_sub_epi8(four(from + r * stride), zero_point), size = _mm256_abs_epi8(a);
      sums[r][0] = added(sums[r][0], size, _mm256_sign_epi8(b0, a));
      sums[r][1] = added(sums[r][1], size, _mm256_sign_epi8(b1, a));
    }
  }
  const __m256i even = _mm256_set1_epi16(0x00FF);
  for (; quad < w.quads; quad++, b += PANEL * QUAD)
    for (int half = 0; half < 2; half++) {
      // With every second weight zero, a sum is one product.
      const __m256i both = load<__m256i>(b + 32 * half);
      const __m256i b0 = _mm256_and_si256(both, even), b1 = _mm256_andnot_si256(even, both);
      for (int r = 0; r < R; r++) {
        const __m256i a = four(x + QUAD * order[quad] + r * stride);
        sums[r][half] = added(added(sums[r][half], a, b0), a, b1);
      }
    }
  for (int r = 0; r < R; r++)
    for (int half = 0; half < 2; half++) store(out + r * PANEL + half * 8, sums[r][half]);
}

#include "product.inl"
const Kernels kernels{"avx2", order_quads, QUADS, TILE_PANELS, product, attend, norm, softmax, dense};
}  // namespace
const Kernels *const AVX2 = &kernels;
}  // namespace intaglio
