// A product of rows with a weight, divided among threads.
#pragma once

#include <algorithm>

#include "kernels.hpp"
#include "threads.hpp"

namespace intaglio {

// Rows of a task; its input then stays in a second-level cache. A multiple of the rows of all tiles.
constexpr int ROW_BLOCK = 96;
// Tasks per thread, so that a thread that is interrupted does not hold up the others for long.
constexpr int TASKS = 4;

inline int divided(int size, int by) { return (size + by - 1) / by; }

// Tasks are blocks of rows times groups of panels; the last panel 0 stands for all.
inline void multiply(const Kernels &kernels, Threads &threads, const Weight &weight, const uint8_t *x, ptrdiff_t stride,
                     int rows, const Epilogue &e, int first_panel = 0, int last_panel = 0) {
  if (!last_panel) last_panel = weight.panels;
  const int row_blocks = divided(rows, ROW_BLOCK);
  const int tiles = divided(last_panel - first_panel, kernels.panels);
  // A multiple of the number of threads: of equal tasks, each gets as many.
  const int groups = std::min(tiles, padded(divided(TASKS * threads.count(), row_blocks), threads.count()));
  const int group = divided(tiles, groups) * kernels.panels;
  threads.run(row_blocks * groups, [&](int task, int) {
    const int row = task / groups * ROW_BLOCK, panel = first_panel + task % groups * group;
    kernels.product(weight, x, stride, row, std::min(rows, row + ROW_BLOCK), panel, std::min(last_panel, panel + group),
                    e);
  });
}

}  // namespace intaglio
