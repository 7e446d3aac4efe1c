// The walk of the graph; part of hot.cpp, which see. The search is that of Malkov and Yashunin (2016), with four
// changes: several entries of the pool are expanded per step; the next are chosen before the neighbours of the last
// are scored, so that codes arrive while others are scored; scores in the walk are integer dot products of codes; the
// pool is one sorted array. Nearly all of the time goes into waiting for memory, so the order of fetches is the design.
#pragma once
#include "layout.h"

namespace {

// A scorer gives the order of m rows; `rows` has room for 3 more, which the scorer may overwrite. Meanwhile it fetches
// the ahead_m rows of `ahead`, a few at a time: more at once than the core can wait for would hold up the scoring.
// Walks use the query at 8 bits. Where all rows have one step the dot product itself is the order.
template <int BITS, bool SCALED>
struct CodeScorer {
    const Codes& c;
    const Query& q;
    void fetch(uint32_t row) const {
        prefetch_row(c.data + static_cast<int64_t>(row) * c.w, BITS == 8 ? c.w : c.w / 2);
        if (SCALED) __builtin_prefetch(c.scale + row);
        if (SCALED && c.bias) __builtin_prefetch(c.bias + row);
    }
    void operator()(uint32_t* rows, int64_t m, uint32_t* orders, float*, const uint32_t* ahead, int64_t ahead_m) const {
        rows[m] = rows[m + 1] = rows[m + 2] = rows[m - 1];
        const int64_t steps = (m + 3) / 4, share = (ahead_m + steps - 1) / steps;
        int64_t fetched = 0;
        for (int64_t i = 0; i < m; i += 4) {
            int64_t four[4];
            int32_t dots[4];
            const int64_t due = fetched + share < ahead_m ? fetched + share : ahead_m;
            for (; fetched < due; ++fetched) fetch(ahead[fetched]);
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
    void operator()(uint32_t* rows, int64_t m, uint32_t* orders, float* values, const uint32_t* ahead,
                    int64_t ahead_m) const {
        for (int64_t i = 0; i < ahead_m; ++i) fetch(ahead[i]);
        score(v, metric, q.exact, rows, 0, m, values);
        for (int64_t i = 0; i < m; ++i) orders[i] = order_of(values[i]);
    }
};

static inline uint64_t entry_of(uint32_t order, uint32_t row) {
    return static_cast<uint64_t>(order) << 32 | (0x7FFFFFFFull - row) << 1 | 1;
}
static inline uint32_t row_of(uint64_t entry) { return 0x7FFFFFFFu - (static_cast<uint32_t>(entry) >> 1); }

// Sorts m entries, no two equal, best first, with `space` of the same size: by counting how many are better, 32 at a
// time, then by merges.
static void sort_entries(uint64_t* a, uint64_t* space, int64_t m) {
    for (int64_t first = 0; first < m; first += 32) {
        const int64_t count = m - first < 32 ? m - first : 32;
        const uint64_t* run = a + first;
        for (int64_t i = 0; i < count; ++i) {
            const uint64_t x = run[i];
            uint64_t better = 0;
            for (int64_t j = 0; j < count; ++j) better += run[j] > x;
            space[better] = x;
        }
        memcpy(a + first, space, static_cast<size_t>(count) * sizeof *a);
    }
    for (int64_t run = 32; run < m; run *= 2)
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
    scorer(s.batch, 1, s.orders, s.values, nullptr, 0);
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
            scorer(s.batch, m, s.orders, s.values, nullptr, 0);
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

static inline bool meet(Scratch& s, uint32_t row) {  // true the first time
    uint64_t& word = s.met[row >> 6];
    const uint64_t bit = 1ull << (row & 63);
    const bool fresh = !(word & bit);
    word |= bit;
    return fresh;
}

// Takes the best `beam` entries not yet expanded, from the cursor on, which moves behind them. What lies behind the
// width is only kept to be scored exactly.
static int choose(const GraphView& g, Scratch& s, int beam, int64_t& cursor, uint32_t* chosen) {
    const Vectors& v = g.vectors;
    const int64_t row_bytes = v.d * (v.half ? 2 : 4);
    const int fetched = row_bytes < 512 ? static_cast<int>(row_bytes) : 512;
    int count = 0;
    const int64_t end = s.size < s.width ? s.size : s.width;
    for (; cursor < end && count < beam; ++cursor) {
        if (!(s.pool[cursor] & 1)) continue;
        s.pool[cursor] &= ~1ull;
        const int64_t row = row_of(s.pool[cursor]);
        prefetch_row(g.neighbors + row * g.width, g.width * 4);
        // most entries that are expanded stay in the pool until their exact scores are asked for
        if (s.rescored) prefetch_row(static_cast<const char*>(v.data) + row * row_bytes, fetched);
        chosen[count++] = static_cast<uint32_t>(row);
    }
    s.hops += count;
    return count;
}

// Puts the neighbours of the chosen rows that are met for the first time into `fresh`; returns how many.
static int64_t neighbors_of(const GraphView& g, Scratch& s, const uint32_t* chosen, int count, uint32_t* fresh) {
    const uint64_t n = static_cast<uint64_t>(g.vectors.n);
    int64_t m = 0;
    for (int c = 0; c < count; ++c) {
        const uint32_t* list = g.neighbors + static_cast<int64_t>(chosen[c]) * g.width;
        for (int j = 0; j < g.width; ++j) {
            if (list[j] >= n) break;  // the padding, and the last guard should the file change under us
            fresh[m] = list[j];
            m += meet(s, list[j]);
        }
    }
    return m;
}

// Merges m scored rows into the pool, and fetches the lists of those that will most likely be expanded next.
static void keep(const GraphView& g, Scratch& s, const uint32_t* rows, int64_t m, int64_t pool_size, int beam,
                 int64_t& cursor) {
    const uint64_t threshold = s.size == pool_size ? s.pool[s.size - 1] : 0;
    int64_t accepted = 0;
    for (int64_t j = 0; j < m; ++j) {
        const uint64_t entry = entry_of(s.orders[j], rows[j]);
        s.fresh[accepted] = entry;
        accepted += entry > threshold;
    }
    if (accepted > 0) {
        sort_entries(s.fresh, s.fresh + accepted, accepted);
        const int64_t best = insert(s, accepted, pool_size);
        if (best < cursor) cursor = best;
    }
    for (int64_t j = cursor, count = 0; j < s.size && count < beam; ++j)
        if (s.pool[j] & 1) {
            ++count;
            prefetch_row(g.neighbors + static_cast<int64_t>(row_of(s.pool[j])) * g.width, g.width * 4);
        }
}

template <class Scorer>
static void walk_with(const GraphView& g, const Scorer& scorer, Scratch& s, int64_t pool_size, int beam,
                      int64_t max_distances) {
    s.distances = s.hops = 0;
    s.pool[0] = descend(g, scorer, s);
    s.size = 1;
    meet(s, row_of(s.pool[0]));
    uint32_t chosen[MAX_BEAM];
    uint32_t *waiting = s.batch, *arriving = s.batch + s.room;  // rows to score now, and those whose codes are fetched
    for (int64_t cursor = 0, m = 0;;) {
        const bool more = max_distances == 0 || s.distances < max_distances;
        const int count = more ? choose(g, s, beam, cursor, chosen) : 0;
        if (m == 0 && count == 0) break;
        const int64_t arriving_m = neighbors_of(g, s, chosen, count, arriving);
        s.distances += arriving_m;
        if (m > 0) {
            scorer(waiting, m, s.orders, s.values, arriving, arriving_m);
            keep(g, s, waiting, m, pool_size, beam, cursor);
        } else {
            for (int64_t j = 0; j < arriving_m; ++j) scorer.fetch(arriving[j]);
        }
        uint32_t* const scored = waiting;
        waiting = arriving;
        arriving = scored;
        m = arriving_m;
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
