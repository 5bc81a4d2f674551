// AVX2: vpmaddubsw sums pairs of products in 16 bits, which saturate, so there are several ways to multiply (order.inl).
#include "include.hpp"

namespace intaglio {
namespace {
constexpr int LANES = 8, TILE_ROWS = 4, TILE_PANELS = 1, QUADS = 1;
#include "simd.inl"
#include "rows.inl"
#include "order.inl"
constexpr bool SATURATES = true;

// The bytes of the rows of a product, without their zero point and as magnitudes, at the same places.
struct Signed {
  const uint8_t *x;
  std::vector<int8_t> values;
  std::vector<uint8_t> sizes;
};
thread_local Signed signed_rows;

inline void prepare(const Weight &w, const uint8_t *x, ptrdiff_t stride, int rows) {
  bool wanted = false;
  for (int panel = 0; panel < w.panels; panel++) wanted |= w.ends[ENDS * panel] < w.ends[ENDS * panel + 3];
  Signed &s = signed_rows;
  const size_t size = static_cast<size_t>(rows) * stride + ROWS;
  if (s.values.size() < size) s.values.resize(size), s.sizes.resize(size);
  s.x = x;
  if (!wanted) return;
  const __m256i zero_point = _mm256_set1_epi8(static_cast<char>(w.zero));
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < w.quads * QUAD; i += 32) {
      const ptrdiff_t at = row * stride + i;
      const __m256i value = _mm256_sub_epi8(load<__m256i>(x + at), zero_point);
      store(&s.values[at], value);
      store(&s.sizes[at], _mm256_abs_epi8(value));
    }
}

// Rows of a tile, as bytes and as the other two kinds.
struct Input {
  const uint8_t *bytes;
  const int8_t *values;
  const uint8_t *sizes;
  ptrdiff_t stride;
};

// Quads of a panel, and their places in the rows.
struct Quads {
  const int8_t *values;
  const uint16_t *order;
  int done;
};

// Sums of a row in both halves of a panel.
struct Sums {
  __m256i first, second;
};

inline __m256i four(const void *from) { return _mm256_set1_epi32(load<int32_t>(from)); }

inline __m256i added(__m256i sums, __m256i bytes, __m256i weights) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, weights);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Add the products of a quad with a row. Bit i of SIGNED: half i is multiplied by magnitudes, with the signs moved to
// the weights.
template <int SIGNED> inline void add_row(Sums &sums, const Input &x, ptrdiff_t place, __m256i first, __m256i second) {
  __m256i bytes{}, sizes{};
  if constexpr (SIGNED != 3) bytes = four(x.bytes + place);
  if constexpr (SIGNED != 0) {
    const __m256i values = four(x.values + place);
    sizes = four(x.sizes + place);
    if constexpr (SIGNED & 1) first = _mm256_sign_epi8(first, values);
    if constexpr (SIGNED & 2) second = _mm256_sign_epi8(second, values);
  }
  sums.first = added(sums.first, SIGNED & 1 ? sizes : bytes, first);
  sums.second = added(sums.second, SIGNED & 2 ? sizes : bytes, second);
  // GCC would interleave the rows, and keep sums in memory for want of registers.
  asm volatile("" : "+x"(sums.first), "+x"(sums.second));
}

template <int SIGNED, size_t... ROW>
inline void add_quads(Sums *sums, Quads &quads, int end, const Input &x, std::index_sequence<ROW...>) {
  for (; quads.done < end; quads.done++, quads.values += PANEL * QUAD) {
    const __m256i first = load<__m256i>(quads.values), second = load<__m256i>(quads.values + 32);
    const int place = QUAD * quads.order[quads.done];
    (add_row<SIGNED>(sums[ROW], x, place + ROW * x.stride, first, second), ...);
  }
}

// Add the products of the other quads. With every second weight zero, a sum is one product.
template <size_t... ROW>
inline void add_others(Sums *sums, Quads &quads, int end, const Input &x, std::index_sequence<ROW...>) {
  const __m256i even = _mm256_set1_epi16(0x00FF);
  for (; quads.done < end; quads.done++, quads.values += PANEL * QUAD) {
    const __m256i first = load<__m256i>(quads.values), second = load<__m256i>(quads.values + 32);
    const int place = QUAD * quads.order[quads.done];
    for (const __m256i &chosen : {even, ~even})
      (add_row<0>(sums[ROW], x, place + ROW * x.stride, first & chosen, second & chosen), ...);
  }
}

template <size_t... ROW>
inline void add_panel(const Weight &w, int panel, const Input &x, int32_t *out, std::index_sequence<ROW...> rows) {
  const ptrdiff_t first = static_cast<ptrdiff_t>(panel) * w.quads;
  const int32_t *ends = w.ends + ENDS * panel;
  Quads quads{w.values + first * PANEL * QUAD, w.order + first, 0};
  Sums sums[sizeof...(ROW)];
  ((sums[ROW] = Sums{}), ...);
  add_quads<0>(sums, quads, ends[0], x, rows);
  add_quads<1>(sums, quads, ends[1], x, rows);
  add_quads<2>(sums, quads, ends[2], x, rows);
  add_quads<3>(sums, quads, ends[3], x, rows);
  add_others(sums, quads, w.quads, x, rows);
  (store(out + ROW * PANEL, sums[ROW].first), ...);
  (store(out + ROW * PANEL + LANES, sums[ROW].second), ...);
}

// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride, int32_t *out) {
  const ptrdiff_t at = x - signed_rows.x;
  const Input input{x, signed_rows.values.data() + at, signed_rows.sizes.data() + at, stride};
  add_panel(w, panel, input, out, std::make_index_sequence<R>());
}

#include "product.inl"
const Kernels kernels{"avx2", order_panel, QUADS, TILE_PANELS, product, attend, norm, norm_for_training, softmax, dense};
}  // namespace
const Kernels *const AVX2 = &kernels;
}  // namespace intaglio
