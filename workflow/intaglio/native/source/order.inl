// For instruction sets that sum pairs of products in 16 bits: the quads of every panel by kind.
//
// 0. Quads that cannot saturate, whatever bytes they are multiplied by.
// 1 to 3. Quads of which the first half of the panel, the second, or both could: the signs of x are moved to their
//    weights, and products with magnitudes of at most 128 cannot saturate.
// 4. Quads whose signs cannot be moved, as they have -128: only keys have any.

constexpr int KINDS = ENDS + 1;

static int kind_of(const int8_t *quad, int largest) {
  // Of different signs, no sum is larger than its parts; of equal signs, the largest byte makes it saturate if any does.
  const __m256i largest_byte = _mm256_set1_epi8(static_cast<char>(largest));
  int kind = 0;
  for (int half = 0; half < 2; half++) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(quad + 32 * half));
    const __m256i sums = _mm256_maddubs_epi16(largest_byte, weights);
    const __m256i saturated = _mm256_or_si256(_mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MAX)),
                                              _mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MIN)));
    if (!_mm256_movemask_epi8(saturated)) continue;
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(weights, _mm256_set1_epi8(INT8_MIN)))) return KINDS - 1;
    kind |= 1 << half;
  }
  return kind;
}

// Order the quads of one panel in place. What is multiplied by x without its zero point changes the bias.
static void order_panel(const Weight &w, int8_t *quads, int32_t *bias, uint16_t *order, int32_t *ends) {
  constexpr int SIZE = PANEL * QUAD;
  thread_local std::vector<int8_t> moved[KINDS];
  thread_local std::vector<uint16_t> places[KINDS];
  for (int kind = 0; kind < KINDS; kind++) moved[kind].clear(), places[kind].clear();
  for (int quad = 0; quad < w.quads; quad++) {
    const int8_t *from = quads + quad * SIZE;
    const int kind = kind_of(from, w.largest);
    moved[kind].insert(moved[kind].end(), from, from + SIZE);
    places[kind].push_back(static_cast<uint16_t>(quad));
    for (int i = 0; kind < KINDS - 1 && i < SIZE; i++)
      if (kind >> (i / (SIZE / 2)) & 1) bias[i / QUAD] += w.zero * from[i];
  }
  int32_t end = 0;
  for (int kind = 0; kind < KINDS; kind++) {
    quads = std::copy(moved[kind].begin(), moved[kind].end(), quads);
    order = std::copy(places[kind].begin(), places[kind].end(), order);
    end += static_cast<int32_t>(places[kind].size());
    if (kind < ENDS) ends[kind] = end;
  }
}
