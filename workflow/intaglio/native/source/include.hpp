// What the files of the instruction sets include, outside of their namespaces.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels.hpp"

#ifdef INTAGLIO_EMULATED
#include "emulated.hpp"
#endif
