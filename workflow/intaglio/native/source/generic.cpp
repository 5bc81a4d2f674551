// Plain C++ for processors without the instructions of the other files.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 4, TILE_ROWS = 4, TILE_PANELS = 1, QUADS = 1;
#include "simd.inl"
#include "rows.inl"
constexpr void (*order_panel)(const Weight &, int8_t *, int32_t *, uint16_t *, int32_t *) = nullptr;
constexpr bool SATURATES = false;

inline void prepare(const Weight &, const uint8_t *, ptrdiff_t, int) {}

// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride,
                                    int32_t *out) {
  const int8_t *b = w.values + static_cast<ptrdiff_t>(panel) * w.quads * PANEL * QUAD;
  int32_t sums[R][PANEL] = {};
  for (int quad = 0; quad < w.quads; quad++, b += PANEL * QUAD)
    for (int r = 0; r < R; r++) {
      const uint8_t *a = x + QUAD * quad + r * stride;
      for (int c = 0; c < PANEL; c++)
        for (int i = 0; i < QUAD; i++) sums[r][c] += a[i] * b[c * QUAD + i];
    }
  std::memcpy(out, sums, sizeof sums);
}

#include "product.inl"
const Kernels kernels{"generic", order_panel, QUADS, TILE_PANELS, product, attend, norm, norm_for_training, softmax, dense};
}  // namespace
const Kernels *const GENERIC = &kernels;
}  // namespace intaglio
