// The hot loops: exact scores, approximate scores over codes, and the walk of the graph. Compiled once per instruction
// level; every function here has internal linkage, and nothing is instantiated from the standard library, so that no
// other level's code can be linked in its place. Buffers come from the caller.
#include "lanes.h"

namespace {

static inline uint32_t order_of(float score) {  // monotone; NaN comes last
    if (!(score == score)) return 0;
    uint32_t bits;
    memcpy(&bits, &score, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
static inline uint32_t order_of(int32_t dot) { return static_cast<uint32_t>(dot) ^ 0x80000000u; }

// ---- exact scores --------------------------------------------------------------------------------

template <class T, bool L2>
static inline Lanes step(Lanes sum, const T* x, const float* q) {
    const Lanes v = load(x), u = load(q);
    if (!L2) return accumulate(sum, v, u);
    const Lanes difference = subtract(u, v);
    return accumulate(sum, difference, difference);
}

template <class T, bool L2>
static inline void score_four(const T* const* rows, const float* q, int d, float* out) {
    Lanes sums[4] = {zero(), zero(), zero(), zero()};
    int i = 0;
    for (; i + LANES <= d; i += LANES)
        for (int r = 0; r < 4; ++r) sums[r] = step<T, L2>(sums[r], rows[r] + i, q + i);
    if (i < d) {
        T tail[LANES];
        for (int r = 0; r < 4; ++r) {
            memset(tail, 0, sizeof tail);
            memcpy(tail, rows[r] + i, static_cast<size_t>(d - i) * sizeof(T));
            sums[r] = step<T, L2>(sums[r], tail, q + i);
        }
    }
    fold_four(sums, out);
    for (int r = 0; r < 4; ++r) out[r] = finish(out[r], L2 ? Metric::L2 : Metric::DOT);
}

template <class T, bool L2>
static void score_all(const Vectors& v, const float* q, const uint32_t* rows, int64_t first, int64_t m, float* out) {
    const T* data = static_cast<const T*>(v.data);
    const int row_bytes = v.d * static_cast<int>(sizeof(T));
    const int bytes = row_bytes < 256 ? row_bytes : 256;  // the core fetches the rest of a row by itself
    const int64_t ahead = 8;
    float last[4];
    if (rows)
        for (int64_t i = 0; i < ahead && i < m; ++i) prefetch_row(data + static_cast<int64_t>(rows[i]) * v.d, bytes);
    for (int64_t i = 0; i < m; i += 4) {
        const T* four[4];
        for (int64_t r = 0; r < 4; ++r) {
            const int64_t at = i + r < m ? i + r : m - 1;
            four[r] = data + (rows ? static_cast<int64_t>(rows[at]) : first + at) * v.d;
            if (rows && i + r + ahead < m) prefetch_row(data + static_cast<int64_t>(rows[i + r + ahead]) * v.d, bytes);
        }
        if (i + 4 <= m) {
            score_four<T, L2>(four, q, v.d, out + i);
        } else {
            score_four<T, L2>(four, q, v.d, last);
            memcpy(out + i, last, static_cast<size_t>(m - i) * sizeof(float));
        }
    }
}

static void score(const Vectors& v, Metric metric, const float* q, const uint32_t* rows, int64_t first, int64_t m,
                  float* out) {
    if (metric == Metric::L2)
        v.half ? score_all<uint16_t, true>(v, q, rows, first, m, out)
               : score_all<float, true>(v, q, rows, first, m, out);
    else
        v.half ? score_all<uint16_t, false>(v, q, rows, first, m, out)
               : score_all<float, false>(v, q, rows, first, m, out);
}

// ---- approximate scores over codes ---------------------------------------------------------------

template <int HALVES>
static inline void row_dots(const Codes& c, const int64_t* rows, const int8_t* query, int32_t* out) {
    const uint8_t* four[4];
    for (int r = 0; r < 4; ++r) four[r] = c.data + rows[r] * c.w;
    code_dots<HALVES>(four, query, c.w / 2, out);
}

// All eight bits, and the query at 15.
static void approximate(const Codes& c, const Query& q, const uint32_t* rows, int64_t first, int64_t m, float* out) {
    const int64_t ahead = 16;
    const auto fetch = [&](int64_t at) {
        if (rows && at < m) prefetch_row(c.data + static_cast<int64_t>(rows[at]) * c.w, c.w);
    };
    for (int64_t i = 0; i < ahead; ++i) fetch(i);
    for (int64_t i = 0; i < m; i += 4) {
        int64_t row[4];
        int32_t high[4], low[4];
        for (int64_t r = 0; r < 4; ++r) {
            const int64_t at = i + r < m ? i + r : m - 1;
            row[r] = rows ? static_cast<int64_t>(rows[at]) : first + at;
            fetch(i + r + ahead);
        }
        row_dots<2>(c, row, q.high, high);
        row_dots<2>(c, row, q.low, low);
        for (int64_t r = 0; r < 4 && i + r < m; ++r) {
            const int64_t t = 2 * (128 * static_cast<int64_t>(high[r]) + low[r]) - 255 * q.sum_both;
            float value = q.mult_both * static_cast<float>(t);
            if (c.scale) value = value * c.scale[row[r]];
            out[i + r] = c.bias ? value + c.bias[row[r]] : value;
        }
    }
}

}  // namespace

#include "walk.h"  // uses the functions above

#define KERNEL_JOIN(a, b) a##b
#define KERNEL_NAME(level) KERNEL_JOIN(level_, level)
#define KERNEL_TEXT(level) KERNEL_QUOTE(level)
#define KERNEL_QUOTE(level) #level
namespace kernel {
extern const Level KERNEL_NAME(KERNEL_LEVEL);
const Level KERNEL_NAME(KERNEL_LEVEL) = {KERNEL_TEXT(KERNEL_LEVEL), score, approximate, walk};
}  // namespace kernel
