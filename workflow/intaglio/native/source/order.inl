// For instruction sets that sum pairs of products in 16 bits: quads that cannot saturate come first in every panel.

// Whether sums of pairs of products with bytes up to 255 leave 16 bits for the 64 weights of a quad: then the largest
// byte makes them saturate. Of different signs, no sum is larger than its parts.
static bool may_saturate(const int8_t *quad) {
  const __m256i largest_byte = _mm256_set1_epi8(-1);
  __m256i saturated{};
  for (int half = 0; half < 2; half++) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(quad + 32 * half));
    const __m256i sums = _mm256_maddubs_epi16(largest_byte, weights);
    saturated = _mm256_or_si256(saturated, _mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MAX)));
    saturated = _mm256_or_si256(saturated, _mm256_cmpeq_epi16(sums, _mm256_set1_epi16(INT16_MIN)));
  }
  return _mm256_movemask_epi8(saturated) != 0;
}

static void order_quads(const Weight &w, int8_t *values, uint16_t *order, int32_t *safe) {
  std::vector<int8_t> unsafe;
  for (int panel = 0; panel < w.panels; panel++, order += w.quads) {
    int8_t *quads = values + static_cast<ptrdiff_t>(panel) * w.quads * PANEL * QUAD;
    unsafe.clear();
    std::vector<uint16_t> last;
    int count = 0;
    for (int quad = 0; quad < w.quads; quad++) {
      const int8_t *from = quads + quad * PANEL * QUAD;
      if (may_saturate(from)) {
        unsafe.insert(unsafe.end(), from, from + PANEL * QUAD);
        last.push_back(static_cast<uint16_t>(quad));
      } else {
        std::memmove(quads + count * PANEL * QUAD, from, PANEL * QUAD);
        order[count++] = static_cast<uint16_t>(quad);
      }
    }
    safe[panel] = count;
    std::copy(unsafe.begin(), unsafe.end(), quads + count * PANEL * QUAD);
    std::copy(last.begin(), last.end(), order + count);
  }
}
