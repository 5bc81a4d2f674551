// The tile of instruction sets with an exact dot product of four bytes: their file defines dot(sum, a, b).

constexpr void (*order_panel)(const Weight &, int8_t *, int32_t *, uint16_t *, int32_t *) = nullptr;
constexpr bool SATURATES = false;

inline void prepare(const Weight &, const uint8_t *, ptrdiff_t, int) {}

// Not inlined: there is a copy of the product for every epilogue, and one of the tile.
template <int R>
__attribute__((noinline)) void tile(const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride,
                                    int32_t *out) {
  const ptrdiff_t next = static_cast<ptrdiff_t>(w.quads) * PANEL * QUAD;
  // The second vector is the other half of a panel, or the next panel.
  const ptrdiff_t second = LANES < PANEL ? sizeof(Ints) : next;
  const int8_t *b = w.values + panel * next;
  Ints sums[R][2] = {};
  for (int quad = 0; quad < w.quads; quad++, b += PANEL * QUAD) {
    const Ints b0 = load<Ints>(b), b1 = load<Ints>(b + second);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const Ints a = all(load<int32_t>(x + QUAD * quad + r * stride));
      sums[r][0] = dot(sums[r][0], a, b0);
      sums[r][1] = dot(sums[r][1], a, b1);
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < 2; i++) store(out + (2 * r + i) * LANES, sums[r][i]);
}
