// Products of rows of bytes with a weight, and attention, from the tiles of an instruction set: its file defines
// TILE_ROWS, TILE_PANELS, QUADS, prepare(), which is called with the rows of a product before its tiles, and
//   template <int R> void tile(const Weight &, int panel, const uint8_t *x, ptrdiff_t stride, int32_t *out)
// which writes R x (TILE_PANELS * PANEL) sums, without bias.

template <int R>
static void any_tile(int rows, const Weight &w, int panel, const uint8_t *x, ptrdiff_t stride, int32_t *out) {
  if constexpr (R > 0) {
    if (rows == R) return tile<R>(w, panel, x, stride, out);
    any_tile<R - 1>(rows, w, panel, x, stride, out);
  }
}

// Rows and panels of a product, from the first to before the last.
struct Part {
  int first_row, last_row, first_panel, last_panel;
};

template <Epilogue::Kind KIND>
static void product_of(const Weight &w, const uint8_t *x, ptrdiff_t stride, const Part &part, const Epilogue &e) {
  constexpr int COLUMNS = TILE_PANELS * PANEL;
  alignas(64) int32_t out[TILE_ROWS * COLUMNS];
  for (int panel = part.first_panel; panel < part.last_panel; panel += TILE_PANELS)
    for (int row = part.first_row; row < part.last_row; row += TILE_ROWS) {
      const int rows = std::min(TILE_ROWS, part.last_row - row);
      any_tile<TILE_ROWS>(rows, w, panel, x + row * stride, stride, out);
      for (int r = 0; r < rows; r++)
        for (int p = 0; p < TILE_PANELS; p++) {
          const int column = (panel + p) * PANEL, width = std::min(PANEL, w.out - column);
          if (width > 0) finish<KIND>(e, out + r * COLUMNS + p * PANEL, w.bias, row + r, column, width);
        }
    }
}

static void product(const Weight &w, const uint8_t *x, ptrdiff_t stride, int first_row, int last_row, int first_panel,
                    int last_panel, const Epilogue &e) {
  prepare(w, x + first_row * stride, stride, last_row - first_row);
  const Part part{first_row, last_row, first_panel, last_panel};
  switch (e.kind) {
    case Epilogue::ACCUMULATORS: return product_of<Epilogue::ACCUMULATORS>(w, x, stride, part, e);
    case Epilogue::REAL: return product_of<Epilogue::REAL>(w, x, stride, part, e);
    case Epilogue::SHORT: return product_of<Epilogue::SHORT>(w, x, stride, part, e);
    case Epilogue::GELU: return product_of<Epilogue::GELU>(w, x, stride, part, e);
    case Epilogue::SUM: return product_of<Epilogue::SUM>(w, x, stride, part, e);
    case Epilogue::REAL_SUM: return product_of<Epilogue::REAL_SUM>(w, x, stride, part, e);
    case Epilogue::REAL_GELU: return product_of<Epilogue::REAL_GELU>(w, x, stride, part, e);
  }
}

// Pack rows of keys as the columns of a weight; x is query and key with zero point 128.
static Weight pack_keys(const Attention &a, const Scratch &s) {
  Weight w{a.width, a.keys, padded((a.width + QUAD - 1) / QUAD, QUADS),
           padded((a.keys + PANEL - 1) / PANEL, TILE_PANELS), ZERO, 255, s.packed, s.bias};
  std::memset(s.packed, 0, static_cast<size_t>(w.quads) * w.panels * PANEL * QUAD);
  for (int key = 0; key < a.keys; key++) {
    const uint8_t *row = a.key + key * a.stride;
    int8_t *to = s.packed + (static_cast<ptrdiff_t>(key / PANEL) * w.quads * PANEL + key % PANEL) * QUAD;
    int32_t total = 0;
    for (int quad = 0; quad < a.width / QUAD; quad++) {
      uint32_t four;
      std::memcpy(&four, row + quad * QUAD, QUAD);
      four ^= 0x80808080;
      std::memcpy(to + quad * PANEL * QUAD, &four, QUAD);
    }
    for (int i = 0; i < a.width; i++) total += row[i] - ZERO;
    for (int i = a.width / QUAD * QUAD; i < a.width; i++)
      to[i / QUAD * PANEL * QUAD + i % QUAD] = static_cast<int8_t>(row[i] - ZERO);
    s.bias[key] = -ZERO * total;
  }
  if constexpr (SATURATES)
    for (int panel = 0; panel < w.panels; panel++)
      order_panel(w, s.packed + static_cast<ptrdiff_t>(panel) * w.quads * PANEL * QUAD, s.bias + panel * PANEL,
                  s.order + panel * w.quads, s.ends + panel * ENDS);
  w.order = s.order;
  w.ends = s.ends;
  return w;
}

// Pack rows of values as the rows of a weight. Shares of a row sum to at most 256 in pairs, so no sum saturates.
static Weight pack_values(const Attention &a, const Scratch &s) {
  Weight w{a.keys, a.width, padded((a.keys + QUAD - 1) / QUAD, QUADS),
           padded((a.width + PANEL - 1) / PANEL, TILE_PANELS), 0, 255, s.packed, s.bias};
  std::memset(s.packed, 0, static_cast<size_t>(w.quads) * w.panels * PANEL * QUAD);
  std::memset(s.bias, 0, sizeof(int32_t) * w.panels * PANEL);
  for (int quad = 0; quad * QUAD < a.keys; quad++)
    for (int panel = 0; panel * PANEL < a.width; panel++) {
      int8_t *to = s.packed + (static_cast<ptrdiff_t>(panel) * w.quads + quad) * PANEL * QUAD;
      const int rows = std::min(QUAD, a.keys - quad * QUAD), columns = std::min(PANEL, a.width - panel * PANEL);
      for (int r = 0; r < rows; r++) {
        const uint8_t *from = a.value + (quad * QUAD + r) * a.stride + panel * PANEL;
        for (int c = 0; c < columns; c++) to[c * QUAD + r] = static_cast<int8_t>(from[c] - ZERO);
      }
    }
  if constexpr (SATURATES) {
    std::fill_n(s.ends, ENDS * w.panels, w.quads);
    for (int i = 0; i < w.panels * w.quads; i++) s.order[i] = static_cast<uint16_t>(i % w.quads);
  }
  w.order = s.order;
  w.ends = s.ends;
  return w;
}

static void attend(const Attention &a, const Scratch &s) {
  const int keys = padded(a.keys, 4 * PANEL);
  Scratch of_values = s;
  of_values.packed += static_cast<ptrdiff_t>(keys) * padded(a.width, 4 * PANEL);
  of_values.bias += keys;
  of_values.order += static_cast<ptrdiff_t>(keys) / PANEL * padded(a.width, 4 * PANEL) / QUAD;
  of_values.ends += ENDS * keys / PANEL;
  const Weight by_key = pack_keys(a, s), by_value = pack_values(a, of_values);
  for (int first = 0; first < a.queries; first += ROWS) {
    const int rows = std::min(ROWS, a.queries - first);
    Epilogue scores{Epilogue::ACCUMULATORS, s.scores, keys};
    product(by_key, a.query + first * a.stride, a.stride, 0, rows, 0, by_key.panels, scores);
    if (a.blind) std::memset(s.scores, 0, sizeof(int32_t) * rows * keys);
    softmax(a.softmax, s.scores, keys, rows, a.keys, s.shares, keys);
    Epilogue context{Epilogue::SHORT, a.out + first * a.out_stride, a.out_stride, a.multiplier};
    product(by_value, s.shares, keys, 0, rows, 0, by_value.panels, context);
  }
}
