// AVX-VNNI: dot products of four bytes, added to 32 bits, in 256-bit registers.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 8, TILE_ROWS = 6, TILE_PANELS = 1, QUADS = 1;
#include "simd.inl"
#include "rows.inl"

inline Ints dot(Ints sum, Ints a, Ints b) {
#ifdef INTAGLIO_EMULATED
  return emulated_dot(sum, a, b);
#else
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#endif
}

#include "dots.inl"
#include "product.inl"
const Kernels kernels{"avx-vnni", order_panel, QUADS, TILE_PANELS, product, attend, norm, norm_for_training, softmax, dense};
}  // namespace
const Kernels *const AVX_VNNI = &kernels;
}  // namespace intaglio
