// Vectors of LANES numbers in the extension that GCC and Clang share, so that one text serves every instruction set.
// Included inside the namespace of an instruction set.

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Naturals __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

template <class Vector> static inline Vector load(const void *from) {
  Vector x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class Vector> static inline void store(void *to, Vector x) { std::memcpy(to, &x, sizeof x); }

static inline Ints ints(Bytes x) { return __builtin_convertvector(x, Ints); }
static inline Ints ints(Floats x) { return __builtin_convertvector(x, Ints); }
static inline Floats floats(Ints x) { return __builtin_convertvector(x, Floats); }
static inline Doubles doubles(Floats x) { return __builtin_convertvector(x, Doubles); }
static inline Ints all(int32_t x) { return x - Ints{}; }
static inline Floats all_real(float x) { return x - Floats{}; }

static inline Ints largest(Ints a, Ints b) { return a > b ? a : b; }
static inline Ints smallest(Ints a, Ints b) { return a < b ? a : b; }
static inline Ints clip(Ints x, int low, int high) { return smallest(largest(x, all(low)), all(high)); }
static inline Floats clip(Floats x, float low, float high) {
  x = x < low ? all_real(low) : x;
  return x > high ? all_real(high) : x;
}

// Round to the nearest integer, ties to even, for magnitudes below 2^22.
static inline Ints rounded(Floats x) { return (Ints)(x + 12582912.0f) - 0x4B400000; }

// In the order of the lanes, which decides how real numbers are rounded.
template <class Vector> static inline auto sum(Vector x) {
  auto total = x[0];
  for (int i = 1; i < LANES; i++) total += x[i];
  return total;
}

template <int STEP, int... LANE> static inline Ints rotated(Ints x, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(x, x, ((LANE + STEP) % LANES)...);
}

// Combine all lanes in log2(LANES) steps, with an operation on integers whose order does not matter.
template <int STEP = LANES / 2, class Combine> static inline int32_t combined(Ints x, Combine combine) {
  if constexpr (STEP == 0)
    return x[0];
  else
    return combined<STEP / 2>(combine(x, rotated<STEP>(x, std::make_integer_sequence<int, LANES>())), combine);
}

static inline int32_t sum(Ints x) { return combined(x, [](Ints a, Ints b) { return a + b; }); }
static inline int32_t largest_of(Ints x) { return combined(x, largest); }

static inline int bits(uint32_t x) { return x ? 32 - __builtin_clz(x) : 0; }

// Integers from 0 to 255 as bytes.
static inline Bytes bytes(Ints x) { return __builtin_convertvector(x, Bytes); }

// The entries of a table of 256 bytes at these places.
static inline Bytes looked_up(const uint8_t *table, Ints places) {
#ifdef __AVX512F__
  // As 64 words of four entries: each permutation chooses from one half of the table.
  const __m512i words = _mm512_srli_epi32((__m512i)places, 2);
  const __m512i low = _mm512_permutex2var_epi32(load<__m512i>(table), words, load<__m512i>(table + 64));
  const __m512i high = _mm512_permutex2var_epi32(load<__m512i>(table + 128), words, load<__m512i>(table + 192));
  const __m512i chosen = _mm512_mask_mov_epi32(low, _mm512_cmpge_epi32_mask((__m512i)places, _mm512_set1_epi32(128)), high);
  const __m512i place = _mm512_slli_epi32(_mm512_and_si512((__m512i)places, _mm512_set1_epi32(3)), 3);
  return (Bytes)_mm512_cvtepi32_epi8(_mm512_srlv_epi32(chosen, place));
#else
  Bytes found;
  for (int i = 0; i < LANES; i++) found[i] = table[places[i]];
  return found;
#endif
}

static inline Floats exponential(Floats x) {
  x = clip(x, -87.0f, 88.0f);
  Ints power = rounded(x * 1.44269504f);
  Floats n = floats(power);
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = all_real(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  return (p * r * r + r + 1.0f) * (Floats)((power + 127) << 23);
}

// erf as the quotient of two polynomials, to a few units in the last place; it is 1 from 4 on.
static inline Floats error_function(Floats x) {
  x = clip(x, -4.0f, 4.0f);
  Floats square = x * x;
  Floats above = all_real(-2.72614225801306e-10f), below = all_real(-1.45660718464996e-05f);
  for (float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                  -2.95459980854025e-03f, -1.60960333262415e-02f})
    above = above * square + c;
  for (float c : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f})
    below = below * square + c;
  return x * above / below;
}
