// AVX-512 VNNI: dot products of four bytes, added to 32 bits, in 512-bit registers.
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 16, TILE_ROWS = 12, TILE_PANELS = 2, QUADS = 1;
#include "simd.inl"
#include "rows.inl"

inline Ints dot(Ints sum, Ints a, Ints b) {
#ifdef INTAGLIO_EMULATED
  return emulated_dot(sum, a, b);
#else
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#endif
}

#include "dots.inl"
#include "product.inl"
const Kernels kernels{"avx512-vnni", order_panel, QUADS, TILE_PANELS, product, attend, norm, norm_for_training, softmax, dense};
}  // namespace
const Kernels *const AVX512_VNNI = &kernels;
}  // namespace intaglio
