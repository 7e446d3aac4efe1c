// The structures that the level-specific loops (hot.cpp) share with the rest. Plain data only: hot.cpp is compiled once
// per instruction level, so nothing here may become code that the linker could take from the wrong level (no standard
// library templates, no inline functions).
//
// Letters: n rows, d dimensions, w width of a code row (d rounded up to 64), m rows in hand.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kernel {

constexpr uint32_t NO_NEIGHBOR = 0xFFFFFFFFu;  // fills the unused tail of an adjacency row
constexpr int LANES = 16;                      // float sums run in 16 lanes; query rows are padded to this
constexpr int MAX_DIM = 2048;
constexpr int MAX_BEAM = 16;  // entries of the pool expanded in one step

enum class Metric : int { DOT = 0, L2 = 1 };

struct Vectors {
    const void* data;  // float16 or float32 [n, d], C order, any alignment
    int64_t n;
    int d;
    bool half;
};

// Row r stands for step_r * (code - 127.5), step_r = 2 * scale[r]; approximate scores are
// (mult * t) * scale[r] + bias[r] with t = 2 * dot(code, query code) - 255 * sum(query code).
// The upper four bits of all coordinates come first in a row, then the lower four, so that a walk may do with the first
// half of a row: it stands for step_r * 16 * (upper - 7.5), so t = 32 * dot(upper, query code) - 240 * sum(query code).
// Byte b of either half holds two coordinates: with i = b / 32 and j = b % 32, 64 i + j in its lower and
// 64 i + 32 + j in its upper half.
struct Codes {
    const uint8_t* data;  // uint8 [n, w]; null: no codes, the graph is walked on the vectors
    const float* scale;   // float32 [n], or null where every row has the same step (unit vectors)
    const float* bias;    // float32 [n], or null where it is 0 (inner products); -|x|^2 for L2
    int w;
    int walk_bits;  // 4 or 8
};

struct Query {
    const float* exact;  // float32, padded with zeros to a multiple of LANES
    // int8 [w]: the rotated query is q_step * (128 * high + low); first those in the lower halves of bytes
    const int8_t* high;
    const int8_t* low;
    int64_t sum_high;  // sum(high)
    int64_t sum_both;  // sum(128 * high + low)
    float mult_high;   // q_step * 128, twice that for L2
    float mult_both;   // q_step, twice that for L2
};

struct GraphView {
    Vectors vectors;
    Codes codes;
    Metric metric;
    const uint32_t* neighbors;  // uint32 [n, width], NO_NEIGHBOR pads the tail
    int width;
    // Upper layers: slots of layer l are layer_first[l - 1] .. layer_first[l]; l = 1 .. layers.
    const uint32_t* upper_rows;       // uint32 [slots]: the row of a slot
    const uint32_t* upper_down;       // uint32 [slots]: the same row's slot one layer down (layer 1: the row itself)
    const uint32_t* upper_neighbors;  // uint32 [slots, upper_width], slots of the same layer
    int upper_width;
    int layers;
    uint32_t entry;  // a slot of the top layer, or a row where layers == 0
};

// Pool entry: order(score) << 32 | (0x7fffffff - row) << 1 | not yet expanded. Larger is better; no two are equal.
struct Scratch {
    uint64_t* met;     // [n / 64 + 1]: a bit for each row, all clear when a walk begins
    uint64_t* pool;    // [pool_size + 1], best first
    uint64_t* fresh;   // [2 * room + 32]: accepted entries of one step, and space to sort them
    uint32_t* batch;   // [2 * room]: rows to score in one step, and those of the step after it
    uint32_t* orders;  // [room]
    float* values;     // [room]
    int64_t room;      // 4 more than the rows of one step
    int64_t width;     // best entries of the pool that are expanded
    bool rescored;     // most of the pool will be scored exactly
    int64_t size;      // entries in the pool after a walk
    int64_t distances;
    int64_t hops;
};

// One instruction level. `rows` null means the m rows from `first` on.
struct Level {
    const char* name;
    void (*score)(const Vectors&, Metric, const float* query, const uint32_t* rows, int64_t first, int64_t m,
                  float* out);
    void (*approximate)(const Codes&, const Query&, const uint32_t* rows, int64_t first, int64_t m, float* out);
    void (*walk)(const GraphView&, const Query&, Scratch&, int64_t pool_size, int beam, int64_t max_distances);
};

}  // namespace kernel
