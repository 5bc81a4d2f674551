// For instruction sets that sum pairs of products in 16 bits: the quads of every panel by kind, the fastest first.
//
// 1. Quads that cannot saturate, whatever bytes they are multiplied by.
// 2. Quads without -128, which the signs of x can be moved to: products with magnitudes of at most 128 cannot saturate.
// 3. The others, of which only keys have any.

enum Kind { SAFE, SIGNED, OTHER };

static Kind kind_of(const int8_t *quad, int largest) {
  // Of different signs, no sum is larger than its parts; of equal signs, the largest byte makes it saturate if any does.
  const __m256i largest_byte = _mm256_set1_epi8(static_cast<char>(largest));
  __m256i saturated{}, lowest{};
  for (int half = 0; half < 2; half++) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(quad + 32 * half));
    const __m256i sums = _mm256_maddubs_epi16(largest_byte, weights);
    saturated = _mm256_or_si256(saturated, _mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MAX)));
    saturated = _mm256_or_si256(saturated, _mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MIN)));
    lowest = _mm256_or_si256(lowest, _mm256_cmpeq_epi8(weights, _mm256_set1_epi8(INT8_MIN)));
  }
  if (!_mm256_movemask_epi8(saturated)) return SAFE;
  return _mm256_movemask_epi8(lowest) ? OTHER : SIGNED;
}

// Order the quads of a weight in place. The second kind is multiplied by x without its zero point: the bias changes.
static void order_quads(const Weight &w, int8_t *values, int32_t *bias, uint16_t *order, int32_t *ends) {
  constexpr int SIZE = PANEL * QUAD;
  std::vector<int8_t> moved[3];
  std::vector<uint16_t> places[3];
  for (int panel = 0; panel < w.panels; panel++, order += w.quads, ends += 2, bias += PANEL) {
    int8_t *quads = values + static_cast<ptrdiff_t>(panel) * w.quads * SIZE;
    for (int kind = 0; kind < 3; kind++) moved[kind].clear(), places[kind].clear();
    for (int quad = 0; quad < w.quads; quad++) {
      const int8_t *from = quads + quad * SIZE;
      const Kind kind = kind_of(from, w.largest);
      moved[kind].insert(moved[kind].end(), from, from + SIZE);
      places[kind].push_back(static_cast<uint16_t>(quad));
      for (int i = 0; kind == SIGNED && i < SIZE; i++) bias[i / QUAD] += w.zero * from[i];
    }
    uint16_t *place = order;
    for (int kind = 0; kind < 3; kind++) {
      quads = std::copy(moved[kind].begin(), moved[kind].end(), quads);
      place = std::copy(places[kind].begin(), places[kind].end(), place);
    }
    ends[0] = static_cast<int32_t>(places[SAFE].size());
    ends[1] = ends[0] + static_cast<int32_t>(places[SIGNED].size());
  }
}
