// Rotation of vectors and their 8-bit codes; see codes.cpp for the format.
#pragma once
#include "layout.h"

#include <vector>

namespace kernel {

int code_width(int d);  // d rounded up to a multiple of 64

// Seeded rotation of R^w: three times (random signs, Hadamard transform of each block, transposition of the blocks).
class Rotation {
  public:
    Rotation(int d, uint64_t seed);
    int width() const { return width_; }
    // out[w] = the rotated x[d], zeros appended; `space` holds w floats.
    void apply(const float* x, float* out, float* space) const;

  private:
    int d_, width_, block_;
    std::vector<float> signs_;  // [3, w], +1 or -1
};

// A query made ready: padded for exact scores, rotated and quantised for codes. Owns what `view` points to.
class PreparedQuery {
  public:
    // rotation null: no codes are used.
    void prepare(const float* x, int d, Metric metric, const Rotation* rotation);
    Query view;
    float norm;  // |x|

  private:
    std::vector<float> exact_, rotated_, space_;
    std::vector<int8_t> high_, low_;
};

// Codes of rows first .. first + m - 1 of n into codes uint8 [n, w]. scale float32 [n] or null (unit vectors); bias
// float32 [n] or null (not L2). Returns the largest error |x - decoded x| met, in units of the row's step; sums
// |error|^2 and |x|^2 into the last two.
double encode(const Vectors& v, const Rotation& rotation, int64_t first, int64_t m, uint8_t* codes, float* scale,
              float* bias, double* squared_error, double* squared_norm);

float unit_scale(int width);  // half the step of every row where scale is null

}  // namespace kernel
