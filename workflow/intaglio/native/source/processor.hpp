// The instruction sets that this processor and its operating system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace intaglio {

// The kernels that can run here, the fastest first.
std::vector<const Kernels *> available();

// Those of a name; the fastest for an empty one; null if they cannot run here.
const Kernels *kernels_named(const std::string &name);

}  // namespace intaglio
