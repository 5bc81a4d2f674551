// AVX2: vpmaddubsw sums pairs of products in 16 bits, which saturate. It multiplies the quads that cannot; the others
// are multiplied with every second byte zero, which cannot saturate either.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 8, TILE_ROWS = 4, TILE_PANELS = 1, QUADS = 1;
#include "simd.inl"
#include "rows.inl"
#include "order.inl"
constexpr bool SATURATES = true;

inline void prepare() {}

template <int R>
void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride, int32_t *out) {
  const int8_t *b = w.values + static_cast<ptrdiff_t>(panel) * w.quads * PANEL * QUAD;
  const uint16_t *order = w.order + static_cast<ptrdiff_t>(panel) * w.quads;
  const int safe = w.safe[panel];
  const __m256i one = _mm256_set1_epi16(1);
  __m256i sums[R][2] = {};
  int quad = 0;
  for (; quad < safe; quad++, b += PANEL * QUAD) {
    const __m256i b0 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b));
    const __m256i b1 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b + 32));
    const uint8_t *from = x + QUAD * order[quad];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_set1_epi32(*reinterpret_cast<const int32_t *>(from + r * stride));
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b0), one));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b1), one));
    }
  }
  const __m256i even = _mm256_set1_epi16(0x00FF);
  for (; quad < w.quads; quad++, b += PANEL * QUAD)
    for (int half = 0; half < 2; half++) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b + 32 * half));
      const __m256i b0 = _mm256_and_si256(both, even), b1 = _mm256_andnot_si256(even, both);
      const uint8_t *from = x + QUAD * order[quad];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const __m256i a = _mm256_set1_epi32(*reinterpret_cast<const int32_t *>(from + r * stride));
        const __m256i first = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b0), one);
        const __m256i second = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b1), one);
        sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_add_epi32(first, second));
      }
    }
  for (int r = 0; r < R; r++)
    for (int half = 0; half < 2; half++)
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + r * PANEL + half * 8), sums[r][half]);
}

#include "product.inl"
const Kernels kernels{"avx2", order_quads, QUADS, TILE_PANELS, product, attend, norm, softmax, dense};
}  // namespace
const Kernels *const AVX2 = &kernels;
}  // namespace intaglio
