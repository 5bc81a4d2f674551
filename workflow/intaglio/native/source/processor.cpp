#include "processor.hpp"

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace intaglio {

#ifdef __x86_64__
namespace {

// Linux lets a process use the tiles of AMX after it has asked for them.
bool may_use_tiles() {
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned TILE = 1u << 24, INT8 = 1u << 25;
  return (d & TILE) && (d & INT8) && may_use_tiles();
}

bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

std::vector<const Kernels *> available() {
  std::vector<const Kernels *> found;
#ifdef INTAGLIO_EMULATED
  found = {AMX, AVX512_VNNI, AVX_VNNI};
#else
  __builtin_cpu_init();
  if (has_avx512_vnni() && has_amx()) found.push_back(AMX);
  if (has_avx512_vnni()) found.push_back(AVX512_VNNI);
  if (has_avx_vnni()) found.push_back(AVX_VNNI);
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(AVX2);
  found.push_back(GENERIC);
  return found;
}
#else
std::vector<const Kernels *> available() { return {GENERIC}; }
#endif

const Kernels *kernels_named(const std::string &name) {
  for (const Kernels *kernels : available())
    if (name.empty() || name == kernels->name) return kernels;
  return nullptr;
}

}  // namespace intaglio
