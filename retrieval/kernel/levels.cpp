#include "levels.h"

#include <stdexcept>

namespace kernel {

extern const Level level_plain;
#ifdef KERNEL_X86
extern const Level level_avx2;
extern const Level level_avx512;
#endif

static std::vector<const Level*> detect() {
    std::vector<const Level*> found;
#ifdef KERNEL_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        found.push_back(&level_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        found.push_back(&level_avx2);
#endif
    found.push_back(&level_plain);
    return found;
}

const std::vector<const Level*>& offered_levels() {
    static const std::vector<const Level*> levels = detect();
    return levels;
}

const Level& level_named(const std::string& name) {
    std::string offered;
    for (const Level* level : offered_levels()) {
        if (name.empty() || name == level->name) return *level;
        offered += (offered.empty() ? "" : ", ") + std::string(level->name);
    }
    throw std::invalid_argument("level '" + name + "' is not offered by this machine; it offers " + offered);
}

}  // namespace kernel
