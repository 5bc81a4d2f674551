// AMX: products of tiles of 16 x 64 bytes with 64 x 16, added to 32 bits.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 16, TILE_ROWS = 32, TILE_PANELS = 2, QUADS = 16;
#include "simd.inl"
#include "rows.inl"
constexpr void (*order_panel)(const Weight &, int8_t *, int32_t *, uint16_t *, int32_t *) = nullptr;
constexpr bool SATURATES = false;

// Configure the thread's tiles.
inline void prepare(const Weight &, const uint8_t *, ptrdiff_t, int) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
  _tile_loadconfig(&shape);
}

// Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 panels.
// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride,
                                    int32_t *out) {
  constexpr int STEP = 16 * QUAD, COLUMNS = TILE_PANELS * PANEL * sizeof(int32_t);
  const ptrdiff_t next = static_cast<ptrdiff_t>(w.quads) * PANEL * QUAD;
  const int8_t *b = w.values + panel * next;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int quad = 0; quad < w.quads; quad += 16, x += STEP, b += 16 * PANEL * QUAD) {
    _tile_loadd(6, b, PANEL * QUAD);
    _tile_loadd(7, b + next, PANEL * QUAD);
    _tile_loadd(4, x, stride);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    if constexpr (R > 16) {
      _tile_loadd(5, x + 16 * stride, stride);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, out, COLUMNS);
  _tile_stored(1, out + PANEL, COLUMNS);
  if constexpr (R > 16) {
    _tile_stored(2, out + 16 * TILE_PANELS * PANEL, COLUMNS);
    _tile_stored(3, out + 16 * TILE_PANELS * PANEL + PANEL, COLUMNS);
  }
}

#include "product.inl"
const Kernels kernels{"amx", order_panel, QUADS, TILE_PANELS, product, attend, norm, norm_for_training, softmax, dense};
}  // namespace
const Kernels *const AMX = &kernels;
}  // namespace intaglio
