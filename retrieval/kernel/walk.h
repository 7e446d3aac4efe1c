// The walk of the graph; part of hot.cpp, which see. The search is that of Malkov and Yashunin (2016), with three
// changes: several entries of the pool are expanded per step, so that their neighbours' codes are fetched together;
// scores in the walk are integer dot products of codes; the pool is one sorted array.
#pragma once
#include "layout.h"

namespace {

// A scorer gives the order of m rows; `rows` has room for 3 more, which the scorer may overwrite. Walks use the query
// at 8 bits. Where all rows have one step the dot product itself is the order.
template <int BITS, bool SCALED>
struct CodeScorer {
    const Codes& c;
    const Query& q;
    void fetch(uint32_t row) const {
        prefetch_row(c.data + static_cast<int64_t>(row) * c.w, BITS == 8 ? c.w : c.w / 2);
        if (SCALED) __builtin_prefetch(c.scale + row);
        if (SCALED && c.bias) __builtin_prefetch(c.bias + row);
    }
    void operator()(uint32_t* rows, int64_t m, uint32_t* orders, float*) const {
        rows[m] = rows[m + 1] = rows[m + 2] = rows[m - 1];
        for (int64_t i = 0; i < m; i += 4) {
            int64_t four[4];
            int32_t dots[4];
            for (int r = 0; r < 4; ++r) four[r] = rows[i + r];
            row_dots<BITS / 4>(c, four, q.high, dots);
            for (int r = 0; r < 4; ++r) {
                const int32_t dot = dots[r];
                if (!SCALED) {
                    orders[i + r] = order_of(dot);
                    continue;
                }
                const int64_t t = BITS == 8 ? 2 * static_cast<int64_t>(dot) - 255 * q.sum_high
                                            : 32 * static_cast<int64_t>(dot) - 240 * q.sum_high;
                const float value = q.mult_high * static_cast<float>(t) * c.scale[four[r]];
                orders[i + r] = order_of(c.bias ? value + c.bias[four[r]] : value);
            }
        }
    }
};

struct ExactVectors {
    const Vectors& v;
    Metric metric;
    const Query& q;
    void fetch(uint32_t row) const {
        const int bytes = v.d * (v.half ? 2 : 4);
        prefetch_row(static_cast<const char*>(v.data) + static_cast<int64_t>(row) * bytes, bytes < 1024 ? bytes : 1024);
    }
    void operator()(uint32_t* rows, int64_t m, uint32_t* orders, float* values) const {
        score(v, metric, q.exact, rows, 0, m, values);
        for (int64_t i = 0; i < m; ++i) orders[i] = order_of(values[i]);
    }
};

static inline uint64_t entry_of(uint32_t order, uint32_t row) {
    return static_cast<uint64_t>(order) << 32 | (0x7FFFFFFFull - row) << 1 | 1;
}
static inline uint32_t row_of(uint64_t entry) { return 0x7FFFFFFFu - (static_cast<uint32_t>(entry) >> 1); }

// Sorts m entries, best first, with `space` of the same size: insertion sort of runs of 16, then merges.
static void sort_entries(uint64_t* a, uint64_t* space, int64_t m) {
    for (int64_t first = 0; first < m; first += 16)
        for (int64_t i = first + 1; i < m && i < first + 16; ++i) {
            const uint64_t x = a[i];
            int64_t j = i;
            for (; j > first && a[j - 1] < x; --j) a[j] = a[j - 1];
            a[j] = x;
        }
    for (int64_t run = 16; run < m; run *= 2)
        for (int64_t first = 0; first + run < m; first += 2 * run) {
            const int64_t end = first + 2 * run < m ? first + 2 * run : m;
            memcpy(space, a + first, static_cast<size_t>(run) * sizeof *a);
            int64_t i = 0, j = first + run, out = first;
            while (i < run) a[out++] = j < end && a[j] > space[i] ? a[j++] : space[i++];
        }
}

// Merges m sorted fresh entries into the sorted pool; returns the best position that changed.
static int64_t insert(Scratch& s, int64_t m, int64_t pool_size) {
    int64_t end = s.size;          // pool[end..] is already placed
    while (end + m > pool_size) {  // drop the worst of both
        if (m > 0 && (end == 0 || s.fresh[m - 1] < s.pool[end - 1]))
            --m;
        else
            --end;
    }
    s.size = end + m;
    int64_t at = end;
    for (; m > 0; --m) {
        const uint64_t x = s.fresh[m - 1];
        int64_t base = 0, length = end;  // branchless lower bound in a descending array
        while (length > 0) {
            const int64_t half = (length + 1) >> 1;
            base += s.pool[base + half - 1] > x ? half : 0;
            length -= half;
        }
        memmove(s.pool + base + m, s.pool + base, static_cast<size_t>(end - base) * sizeof *s.pool);
        s.pool[base + m - 1] = x;
        end = at = base;
    }
    return at;
}

template <class Scorer>
static uint64_t descend(const GraphView& g, const Scorer& scorer, Scratch& s) {
    uint32_t slot = g.entry;
    s.batch[0] = g.layers > 0 ? g.upper_rows[slot] : g.entry;
    scorer(s.batch, 1, s.orders, s.values);
    s.distances += 1;
    uint64_t best = entry_of(s.orders[0], s.batch[0]);
    for (int layer = g.layers; layer > 0; --layer) {
        for (bool moved = true; moved;) {
            moved = false;
            const uint32_t* list = g.upper_neighbors + static_cast<int64_t>(slot) * g.upper_width;
            int64_t m = 0;
            for (; m < g.upper_width && list[m] != NO_NEIGHBOR; ++m) s.batch[m] = g.upper_rows[list[m]];
            if (m == 0) break;
            for (int64_t i = 0; i < m; ++i) scorer.fetch(s.batch[i]);
            scorer(s.batch, m, s.orders, s.values);
            s.distances += m;
            s.hops += 1;
            for (int64_t i = 0; i < m; ++i) {
                const uint64_t entry = entry_of(s.orders[i], s.batch[i]);
                if (entry > best) best = entry, slot = list[i], moved = true;
            }
        }
        slot = g.upper_down[slot];
    }
    return best;
}

template <class Scorer>
static void walk_with(const GraphView& g, const Scorer& scorer, Scratch& s, int64_t pool_size, int beam,
                      int64_t max_distances) {
    s.distances = s.hops = 0;
    s.pool[0] = descend(g, scorer, s);
    s.size = 1;
    s.visited[row_of(s.pool[0])] = s.epoch;
    const uint64_t n = static_cast<uint64_t>(g.vectors.n);
    for (int64_t cursor = 0; cursor < s.size && (max_distances == 0 || s.distances < max_distances);) {
        int64_t m = 0, i = cursor;
        for (int expanded = 0; i < s.size && expanded < beam; ++i) {
            if (!(s.pool[i] & 1)) continue;
            s.pool[i] &= ~1ull;
            ++expanded;
            ++s.hops;
            const uint32_t* list = g.neighbors + static_cast<int64_t>(row_of(s.pool[i])) * g.width;
            for (int j = 0; j < g.width; ++j) {
                const uint32_t row = list[j];
                if (row >= n) break;  // the padding, and the last guard should the file change under us
                s.batch[m] = row;
                m += s.visited[row] != s.epoch;
                s.visited[row] = s.epoch;
            }
        }
        for (int64_t j = i, count = 0; j < s.size && count < beam; ++j)  // most likely the next to be expanded
            if (s.pool[j] & 1) {
                ++count;
                prefetch_row(g.neighbors + static_cast<int64_t>(row_of(s.pool[j])) * g.width, g.width * 4);
            }
        cursor = i;
        if (m == 0) continue;
        for (int64_t j = 0; j < m; ++j) scorer.fetch(s.batch[j]);
        scorer(s.batch, m, s.orders, s.values);
        s.distances += m;
        const uint64_t threshold = s.size == pool_size ? s.pool[s.size - 1] : 0;
        int64_t accepted = 0;
        for (int64_t j = 0; j < m; ++j) {
            const uint64_t entry = entry_of(s.orders[j], s.batch[j]);
            s.fresh[accepted] = entry;
            accepted += entry > threshold;
        }
        if (accepted == 0) continue;
        sort_entries(s.fresh, s.fresh + accepted, accepted);
        const int64_t best = insert(s, accepted, pool_size);
        if (best < cursor) cursor = best;
    }
}

static void walk(const GraphView& g, const Query& q, Scratch& s, int64_t pool_size, int beam, int64_t max_distances) {
    const Codes& c = g.codes;
    if (c.data == nullptr)
        walk_with(g, ExactVectors{g.vectors, g.metric, q}, s, pool_size, beam, max_distances);
    else if (c.scale == nullptr && c.walk_bits == 4)
        walk_with(g, CodeScorer<4, false>{c, q}, s, pool_size, beam, max_distances);
    else if (c.scale == nullptr)
        walk_with(g, CodeScorer<8, false>{c, q}, s, pool_size, beam, max_distances);
    else if (c.walk_bits == 4)
        walk_with(g, CodeScorer<4, true>{c, q}, s, pool_size, beam, max_distances);
    else
        walk_with(g, CodeScorer<8, true>{c, q}, s, pool_size, beam, max_distances);
}

}  // namespace
