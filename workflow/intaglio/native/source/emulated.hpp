// Instructions that a processor lacks, in plain C++: so every instruction set can be tested on any processor.
#pragma once

namespace intaglio {

template <class Ints> inline Ints emulated_dot(Ints sum, Ints a, Ints b) {
  constexpr int SIZE = sizeof(Ints);
  uint8_t left[SIZE];
  int8_t right[SIZE];
  std::memcpy(left, &a, SIZE);
  std::memcpy(right, &b, SIZE);
  for (int i = 0; i < SIZE; i++) sum[i / QUAD] += left[i] * right[i];
  return sum;
}

struct EmulatedTile {
  int32_t words[16][16];
};
inline thread_local EmulatedTile emulated_tiles[8];

inline void emulated_load(int tile, const void *from, ptrdiff_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(emulated_tiles[tile].words[r], static_cast<const char *>(from) + r * stride, 64);
}

inline void emulated_store(int tile, void *to, ptrdiff_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(static_cast<char *>(to) + r * stride, emulated_tiles[tile].words[r], 64);
}

inline void emulated_product(int sums, int left, int right) {
  for (int r = 0; r < 16; r++)
    for (int quad = 0; quad < 16; quad++)
      for (int c = 0; c < 16; c++) {
        uint8_t a[4];
        int8_t b[4];
        std::memcpy(a, &emulated_tiles[left].words[r][quad], 4);
        std::memcpy(b, &emulated_tiles[right].words[quad][c], 4);
        for (int i = 0; i < 4; i++) emulated_tiles[sums].words[r][c] += a[i] * b[i];
      }
}

}  // namespace intaglio

#undef _tile_loadconfig
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig(shape) static_cast<void>(shape)
#define _tile_zero(tile) emulated_tiles[tile] = EmulatedTile{}
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbusd emulated_product
