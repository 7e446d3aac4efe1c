// 8-bit scalar quantisation after a random rotation.
//
// Rotated coordinates are close to normal with standard deviation |x| / sqrt(w), whatever the data was, so one uniform
// grid of 256 steps over +-4.5 standard deviations serves every coordinate: step = 9 |x| / (256 sqrt(w)), and code c
// stands for step * (c - 127.5). Unit vectors share one step. Blocks of Hadamard transforms instead of one transform of
// the next power of two: w is d rounded up to 64, so 384 or 1280 dimensions cost no extra byte.
// The idea of rotating before scalar quantisation is that of RaBitQ and its predecessors (Gao and Long, 2024).
#include "codes.h"

#include "half.h"

#include <algorithm>
#include <cmath>

namespace kernel {

static constexpr int ROUNDS = 3;
static constexpr float SPREAD = 4.5f;  // standard deviations covered on each side

int code_width(int d) { return (d + 63) / 64 * 64; }

float unit_scale(int width) { return SPREAD / (256.0f * std::sqrt(static_cast<float>(width))); }

static uint64_t mixed(uint64_t x) {  // splitmix64
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

Rotation::Rotation(int d, uint64_t seed) : d_(d), width_(code_width(d)), block_(64) {
    while (width_ % (2 * block_) == 0) block_ *= 2;
    signs_.resize(static_cast<size_t>(ROUNDS) * width_);
    for (size_t i = 0; i < signs_.size(); ++i) signs_[i] = mixed(seed * 0x2545F4914F6CDD1Dull + i) & 1 ? -1.0f : 1.0f;
}

static void hadamard(float* x, int size) {
    for (int half = 1; half < size; half *= 2)
        for (int first = 0; first < size; first += 2 * half)
            for (int i = first; i < first + half; ++i) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

void Rotation::apply(const float* x, float* out, float* space) const {
    const int blocks = width_ / block_;
    const float norm = 1.0f / std::sqrt(static_cast<float>(block_));
    std::copy(x, x + d_, out);
    std::fill(out + d_, out + width_, 0.0f);
    for (int round = 0; round < ROUNDS; ++round) {
        const float* sign = signs_.data() + static_cast<size_t>(round) * width_;
        for (int i = 0; i < width_; ++i) out[i] *= sign[i] * norm;
        for (int b = 0; b < blocks; ++b) hadamard(out + b * block_, block_);
        if (blocks == 1) continue;
        for (int b = 0; b < blocks; ++b)
            for (int i = 0; i < block_; ++i) space[i * blocks + b] = out[b * block_ + i];
        std::copy(space, space + width_, out);
    }
}

void PreparedQuery::prepare(const float* x, int d, Metric metric, const Rotation* rotation) {
    exact_.assign(static_cast<size_t>((d + LANES - 1) / LANES * LANES), 0.0f);
    std::copy(x, x + d, exact_.begin());
    view = Query{};
    view.exact = exact_.data();
    double squared = 0;
    for (int i = 0; i < d; ++i) squared += static_cast<double>(x[i]) * x[i];
    norm = static_cast<float>(std::sqrt(squared));
    if (rotation == nullptr) return;
    const int w = rotation->width();
    for (auto* v : {&rotated_, &space_}) v->resize(w);
    for (auto* v : {&high_, &low_}) v->resize(w);
    rotation->apply(x, rotated_.data(), space_.data());
    float largest = 0;
    for (float value : rotated_) largest = std::max(largest, std::fabs(value));
    // 127 * 128 = 16256; a query of zeros, or one whose rotation overflows, is all zeros in code
    const bool usable = largest > 0 && std::isfinite(largest);
    const float step = usable ? largest / 16256.0f : 0.0f, inverse = usable ? 16256.0f / largest : 0.0f;
    int64_t sum_high = 0, sum_low = 0;
    for (int i = 0; i < w; ++i) {
        const float scaled = usable ? rotated_[i] * inverse : 0.0f;
        const int value = std::isfinite(scaled) ? std::clamp(static_cast<int>(std::lrint(scaled)), -16256, 16256) : 0;
        const int high = (value + 64) >> 7, low = value - 128 * high;
        const int at = (i % 64 < 32 ? 0 : w / 2) + i / 64 * 32 + i % 32;  // in the order of the codes (layout.h)
        high_[at] = static_cast<int8_t>(high), low_[at] = static_cast<int8_t>(low);
        sum_high += high, sum_low += low;
    }
    view.high = high_.data(), view.low = low_.data();
    view.sum_high = sum_high;
    view.sum_both = 128 * sum_high + sum_low;
    view.mult_both = metric == Metric::L2 ? 2 * step : step;
    view.mult_high = 128 * view.mult_both;
}

double encode(const Vectors& v, const Rotation& rotation, int64_t first, int64_t m, uint8_t* codes, float* scale,
              float* bias, double* squared_error, double* squared_norm) {
    const int w = rotation.width();
    std::vector<float> x(v.d), rotated(w), space(w);
    std::vector<uint8_t> whole(w);
    double worst = 0;
    for (int64_t r = first; r < first + m; ++r) {
        double squared = 0;
        for (int i = 0; i < v.d; ++i) {
            const int64_t at = r * v.d + i;
            x[i] = v.half ? half_to_float(static_cast<const uint16_t*>(v.data)[at])
                          : static_cast<const float*>(v.data)[at];
            squared += static_cast<double>(x[i]) * x[i];
        }
        const float norm = static_cast<float>(std::sqrt(squared));
        const float half_step = scale ? unit_scale(w) * norm : unit_scale(w);
        const float inverse = half_step > 0 && std::isfinite(half_step) ? 0.5f / half_step : 0.0f;
        rotation.apply(x.data(), rotated.data(), space.data());
        double error = 0;  // in squared steps
        for (int i = 0; i < w; ++i) {
            const float at = rotated[i] * inverse + 127.5f;
            const int code = std::isfinite(at) ? static_cast<int>(std::lrint(std::clamp(at, 0.0f, 255.0f))) : 128;
            whole[i] = static_cast<uint8_t>(code);
            const double off = static_cast<double>(at) - code;
            error += inverse > 0 ? off * off : 0.0;
        }
        uint8_t* row = codes + r * w;
        for (int b = 0; b < w / 2; ++b) {
            const uint8_t one = whole[b / 32 * 64 + b % 32], two = whole[b / 32 * 64 + 32 + b % 32];
            row[b] = static_cast<uint8_t>(one >> 4 | (two & 0xF0));
            row[w / 2 + b] = static_cast<uint8_t>((one & 0x0F) | two << 4);
        }
        if (scale) scale[r] = inverse > 0 ? half_step : 0.0f;
        if (bias) bias[r] = static_cast<float>(-squared);
        worst = std::max(worst, std::sqrt(error));
        *squared_error += error * 4.0 * half_step * half_step;
        *squared_norm += squared;
    }
    return worst;
}

}  // namespace kernel
