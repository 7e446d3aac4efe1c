// Exact float16 -> float32 by bits: subnormals, infinities and NaN included. Internal linkage, so that hot.cpp may use
// it.
#pragma once
#include <stdint.h>
#include <string.h>

namespace kernel {

static inline float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
    uint32_t bits;
    if (magnitude >= 0x7C00u) {
        bits = 0x7F800000u | (magnitude << 13);
    } else if (magnitude >= 0x0400u) {
        bits = (magnitude << 13) + 0x38000000u;
    } else {
        const float small = static_cast<float>(static_cast<int32_t>(magnitude)) * 5.9604644775390625e-8f;  // 2^-24
        memcpy(&bits, &small, 4);
    }
    bits |= sign;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

}  // namespace kernel
