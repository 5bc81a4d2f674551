// Softmax and LayerNorm of rows, and what follows a product. Included inside the namespace of an instruction set.

constexpr int BLOCKS = PANEL / LANES;

static inline void finish_sum(const Epilogue &e, Ints acc, int row, int column, void *out) {
  Ints term = clip(acc >> e.shift, -16383, 16383) * load<Ints>(e.multiplier + column);
  if (e.residual) {
    auto wide = static_cast<const int32_t *>(e.residual) + row * e.residual_stride + column;
    term += load<Ints>(wide) >> e.skip;
  }
  store(out, clip(term, -2097151, 2097151));
}

static inline void finish_real_sum(const Epilogue &e, Floats real, int row, int column, void *out) {
  if (e.residual)
    real = load<Floats>(static_cast<const float *>(e.residual) + row * e.residual_stride + column) + real;
  store(out, real);
}

static inline Bytes gelu(const Epilogue &e, Floats scaled) {
  return looked_up(e.table, rounded(clip(scaled, -e.zero_point, 255 - e.zero_point)) + e.zero_point);
}

// Write what becomes of PANEL accumulators, at most `width` of them; those beyond are of padding.
template <Epilogue::Kind KIND>
static inline void finish(const Epilogue &e, const int32_t *accumulators, const int32_t *bias, int row, int column,
                          int width) {
  constexpr bool BYTES = KIND == Epilogue::SHORT || KIND == Epilogue::GELU || KIND == Epilogue::REAL_GELU;
  constexpr int SIZE = BYTES ? 1 : 4;
  alignas(64) uint8_t edge[4 * PANEL];
  uint8_t *place = static_cast<uint8_t *>(e.out) + (row * e.out_stride + column) * SIZE;
  uint8_t *out = width < PANEL ? edge : place;
  for (int block = 0; block < BLOCKS; block++, column += LANES) {
    const Ints acc = load<Ints>(accumulators + block * LANES) + load<Ints>(bias + column);
    uint8_t *to = out + block * LANES * SIZE;
    if constexpr (KIND == Epilogue::ACCUMULATORS) store(to, acc);
    if constexpr (KIND == Epilogue::REAL) store(to, floats(acc));
    if constexpr (KIND == Epilogue::SUM) finish_sum(e, acc, row, column, to);
    if constexpr (KIND == Epilogue::SHORT || KIND == Epilogue::GELU || KIND == Epilogue::REAL_SUM ||
                  KIND == Epilogue::REAL_GELU) {
      const Floats scaled = floats(acc) * load<Floats>(e.scale + column);
      if constexpr (KIND == Epilogue::SHORT) store(to, bytes(rounded(clip(scaled, -128, 127)) + ZERO));
      if constexpr (KIND == Epilogue::GELU) store(to, gelu(e, scaled));
      if constexpr (KIND == Epilogue::REAL_SUM) finish_real_sum(e, scaled, row, column, to);
      if constexpr (KIND == Epilogue::REAL_GELU) {
        const Floats gelu = scaled * 0.5f * (1.0f + error_function(scaled * 0.70710678f));
        store(to, bytes(rounded(clip(gelu * e.inverse, -128, 127)) + ZERO));
      }
    }
  }
  if (width < PANEL) std::memcpy(place, edge, width * SIZE);
}

static int64_t floor_divide(int64_t above, int64_t below) {
  int64_t quotient = above / below;
  return quotient - (above % below < 0);
}

// The multiplier and the shift to the right that bring shortened deviations to the grid of normalized values.
struct RowScale {
  int32_t reciprocal;
  int shift;
};

static RowScale row_scale(int64_t squares, int width) {
  const int count = 64 - __builtin_clzll(squares);
  const int half = (30 - count) >> 1;
  const int64_t normal = half >= 0 ? squares << 2 * half : squares >> -2 * half;
  auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(normal)));
  const int precision = 25 - bits(static_cast<uint32_t>(std::sqrt(static_cast<double>(width))));
  const auto dividend = static_cast<int64_t>(std::nearbyint(std::sqrt(static_cast<double>(width)) * (1 << precision)));
  return {static_cast<int32_t>((dividend + root / 2) / root), precision - 9 - half};
}

// Shift to the right, rounding halves up; a negative shift is one to the left.
static inline Ints shifted(Ints x, int shift) {
  if (shift > 0) return (x + (1 << (shift - 1))) >> shift;
  return x << -shift;
}

struct Normalized {
  int shift;   // of deviations
  RowScale scale;
};

// Deviations are shortened, and written to memory that may be that of the result.
static Normalized norm_row(const Norm &norm, const int32_t *x, int32_t *deviations, int32_t *wide, uint8_t *narrow) {
  const int whole = norm.width / LANES * LANES;
  Ints partial{};
  for (int i = 0; i < whole; i += LANES) partial += load<Ints>(x + i);
  int64_t total = 0;
  for (int i = 0; i < LANES; i++) total += partial[i];
  for (int i = whole; i < norm.width; i++) total += x[i];
  const auto mean = static_cast<int32_t>(floor_divide(total + norm.width / 2, norm.width));
  Ints most{};
  for (int i = 0; i < whole; i += LANES) {
    Ints y = load<Ints>(x + i) - mean;
    most = largest(most, largest(y, -y));
  }
  int32_t top = largest_of(most);
  for (int i = whole; i < norm.width; i++) top = std::max(top, std::abs(x[i] - mean));
  const int shift = std::max(0, bits(top) - 12);
  Naturals squares{};
  for (int i = 0; i < whole; i += LANES) {
    Ints u = shifted(load<Ints>(x + i) - mean, shift);
    store(deviations + i, u);
    squares += (Naturals)(u * u);
  }
  int64_t all_squares = norm.guards[shift];
  for (int i = 0; i < LANES; i++) all_squares += squares[i];
  const int32_t half = shift ? 1 << (shift - 1) : 0;
  for (int i = whole; i < norm.width; i++) {
    deviations[i] = (x[i] - mean + half) >> shift;
    all_squares += static_cast<int64_t>(deviations[i]) * deviations[i];
  }
  const RowScale scale = row_scale(all_squares, norm.width);
  const int e = scale.shift;
  for (int i = 0; i < whole; i += LANES) {
    Ints normalized = shifted(load<Ints>(deviations + i) * scale.reciprocal, e);
    Ints z = normalized * load<Ints>(norm.gamma + i) + load<Ints>(norm.beta + i);
    store(wide + i, z);
    if (norm.shortens) store(narrow + i, bytes(clip(shifted(z, norm.short_shift), -128, 127) + ZERO));
  }
  for (int i = whole; i < norm.width; i++) {
    int32_t normalized = deviations[i] * scale.reciprocal;
    normalized = e > 0 ? (normalized + (1 << (e - 1))) >> e : normalized << -e;
    wide[i] = normalized * norm.gamma[i] + norm.beta[i];
    if (!norm.shortens) continue;
    const int s = norm.short_shift;
    const int32_t shortened = s ? (wide[i] + (1 << (s - 1))) >> s : wide[i];
    narrow[i] = static_cast<uint8_t>(std::clamp(shortened, -128, 127) + ZERO);
  }
  return {shift, scale};
}

static void norm_for_training(const Norm &norm, const float *x, int rows, const TrainedNorm &to) {
  const int width = norm.width;
  std::vector<int32_t> integers(width), deviations(width), wide(width);
  for (ptrdiff_t row = 0; row < rows; row++) {
    const float *from = x + row * width;
    bool defined = true;
    for (int i = 0; i < width; i++) {
      defined &= from[i] == from[i];
      integers[i] = static_cast<int32_t>(from[i]);
    }
    const Normalized found = norm_row(norm, integers.data(), deviations.data(), wide.data(), nullptr);
    to.multiplier[row] = std::ldexp(static_cast<float>(found.scale.reciprocal), -found.scale.shift);
    to.down[row] = std::ldexp(1.0f, -found.shift);
    float *result = to.result + row * width, *short_deviations = to.deviations + row * width;
    for (int i = 0; i < width; i++) {
      result[i] = static_cast<float>(wide[i]);
      short_deviations[i] = static_cast<float>(deviations[i]);
    }
    if (!defined) std::fill_n(result, width, NAN);
  }
}

static void norm_row_real(const Norm &norm, const float *x, float *wide, uint8_t *narrow) {
  double total = 0, squares = 0;
  for (int i = 0; i < norm.width; i++) total += x[i];
  const double mean = total / norm.width;
  for (int i = 0; i < norm.width; i++) squares += (x[i] - mean) * (x[i] - mean);
  const auto inverse = static_cast<float>(1 / std::sqrt(squares / norm.width + norm.epsilon));
  const auto middle = static_cast<float>(mean);
  for (int i = 0; i < norm.width; i++) {
    wide[i] = (x[i] - middle) * inverse * norm.real_gamma[i] + norm.real_beta[i];
    if (!norm.shortens) continue;
    narrow[i] = static_cast<uint8_t>(std::nearbyint(std::clamp(wide[i] * norm.inverse, -128.0f, 127.0f)) + ZERO);
  }
}

static void norm(const Norm &norm, const void *x, ptrdiff_t stride, void *wide, ptrdiff_t wide_stride, uint8_t *narrow,
                 ptrdiff_t narrow_stride, int rows) {
  for (int row = 0; row < rows; row++) {
    uint8_t *bytes_of_row = narrow + row * narrow_stride;
    if (norm.integer)
      norm_row(norm, static_cast<const int32_t *>(x) + row * stride, static_cast<int32_t *>(wide) + row * wide_stride,
               static_cast<int32_t *>(wide) + row * wide_stride, bytes_of_row);
    else
      norm_row_real(norm, static_cast<const float *>(x) + row * stride, static_cast<float *>(wide) + row * wide_stride,
                    bytes_of_row);
  }
}

// Exponentials of distances, for 16-bit reciprocals; scores are overwritten. `keys` is padded: scores beyond are lowest.
static void softmax_row(const Softmax &s, const int32_t *scores, int keys, uint8_t *shares, int32_t *e) {
  Ints most = all(INT32_MIN);
  const int whole = keys / LANES * LANES;
  for (int i = 0; i < whole; i += LANES) most = largest(most, load<Ints>(scores + i));
  int32_t top = largest_of(most);
  for (int i = whole; i < keys; i++) top = std::max(top, scores[i]);
  Ints sums{};
  const auto exponentials = [down = s.down, farthest = all(s.top), by = s.multiplier, shift = s.shift, top](Ints x) {
    Ints distance = smallest((top - x) >> down, farthest) * by >> shift;
    distance = smallest(distance, all(4095));
    Ints low = 500 - (distance & 255);
    return (low * low + 130888) >> ((distance >> 8) + 6);
  };
  for (int i = 0; i < whole; i += LANES) {
    const Ints found = exponentials(load<Ints>(scores + i));
    store(e + i, found);
    sums += found;
  }
  int32_t total = sum(sums);
  if (whole < keys) {
    Ints last = all(top);
    std::memcpy(&last, scores + whole, (keys - whole) * sizeof(int32_t));
    Ints found = exponentials(last);
    std::memcpy(e + whole, &found, (keys - whole) * sizeof(int32_t));
    for (int i = whole; i < keys; i++) total += e[i];
  }
  const int shift = bits(total) - 13;
  const int32_t normal = total >> shift;
  const int32_t reciprocal = ((255 << 15) + normal / 2) / normal;
  const int32_t half = 1 << (14 + shift);
  for (int i = 0; i < whole; i += LANES)
    store(shares + i, bytes((load<Ints>(e + i) * reciprocal + half) >> (15 + shift)));
  for (int i = whole; i < keys; i++) shares[i] = static_cast<uint8_t>((e[i] * reciprocal + half) >> (15 + shift));
}

static void softmax_row_real(const Softmax &s, const int32_t *scores, int keys, uint8_t *shares, int32_t *scratch) {
  auto *e = reinterpret_cast<float *>(scratch);
  float top = -INFINITY;
  for (int i = 0; i < keys; i++) {
    e[i] = static_cast<float>(scores[i]) * s.scale * s.factor;
    top = std::max(top, e[i]);
  }
  const int whole = keys / LANES * LANES;
  double total = 0;
  for (int i = 0; i < whole; i += LANES) {
    Floats found = exponential(load<Floats>(e + i) - top);
    store(e + i, found);
    total += sum(found);
  }
  for (int i = whole; i < keys; i++) total += e[i] = exponential(all_real(e[i] - top))[0];
  const auto inverse = static_cast<float>(1 / total);
  for (int i = 0; i < keys; i++) shares[i] = static_cast<uint8_t>(std::nearbyint(e[i] * inverse * 255.0f));
}

static void softmax(const Softmax &s, const int32_t *scores, ptrdiff_t stride, int rows, int keys, uint8_t *shares,
                    ptrdiff_t shares_stride) {
  for (int row = 0; row < rows; row++) {
    auto *own = const_cast<int32_t *>(scores + row * stride);
    (s.integer ? softmax_row : softmax_row_real)(s, own, keys, shares + row * shares_stride, own);
  }
}

static void dense(const float *weight, const float *bias, int in, int out, const float *x, int rows, int first_column,
                  int last_column, float *y) {
  for (int column = first_column; column < last_column; column++) {
    const float *w = weight + static_cast<ptrdiff_t>(column) * in;
    for (int row = 0; row < rows; row++) {
      const float *from = x + static_cast<ptrdiff_t>(row) * in;
      Doubles sums[2] = {};
      int i = 0;
      for (; i + 2 * LANES <= in; i += 2 * LANES)
        for (int half = 0; half < 2; half++)
          sums[half] += doubles(load<Floats>(w + i + half * LANES)) * doubles(load<Floats>(from + i + half * LANES));
      double total = sum(sums[0] + sums[1]);
      for (; i < in; i++) total += static_cast<double>(w[i]) * from[i];
      y[static_cast<ptrdiff_t>(row) * out + column] = static_cast<float>(total + bias[column]);
    }
  }
}
