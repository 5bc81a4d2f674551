// AVX-512 VNNI: dot products of four bytes, added to 32 bits, in 512-bit registers.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 16, TILE_ROWS = 12, TILE_PANELS = 2, QUADS = 1;
#include "simd.inl"
#include "rows.inl"
constexpr void (*order_quads)(const Weight &, int8_t *, int32_t *, uint16_t *, int32_t *) = nullptr;
constexpr bool SATURATES = false;

inline Ints dot(Ints sum, Ints a, Ints b) {
#ifdef INTAGLIO_EMULATED
  return emulated_dot(sum, a, b);
#else
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#endif
}

inline void prepare() {}

// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride,
                                    int32_t *out) {
  const ptrdiff_t next = static_cast<ptrdiff_t>(w.quads) * PANEL * QUAD;
  const int8_t *b = w.values + panel * next;
  Ints sums[R][2] = {};
  for (int quad = 0; quad < w.quads; quad++, b += PANEL * QUAD) {
    const Ints b0 = load<Ints>(b), b1 = load<Ints>(b + next);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const Ints a = all(load<int32_t>(x + QUAD * quad + r * stride));
      sums[r][0] = dot(sums[r][0], a, b0);
      sums[r][1] = dot(sums[r][1], a, b1);
    }
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < 2; p++) store(out + (2 * r + p) * PANEL, sums[r][p]);
}

#include "product.inl"
const Kernels kernels{"avx512-vnni", order_quads, QUADS, TILE_PANELS, product, attend, norm, softmax, dense};
}  // namespace
const Kernels *const AVX512_VNNI = &kernels;
}  // namespace intaglio
