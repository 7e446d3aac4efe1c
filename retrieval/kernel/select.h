// Bitmaps of rows, the order of answers, and the k best of a stream.
#pragma once
#include "layout.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

namespace kernel {

// Score descending, then row ascending, as one integer: larger is better. Scores are never NaN (see lanes.h).
inline uint64_t key_of(float score, uint32_t row) {
    uint32_t bits;
    std::memcpy(&bits, &score, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | ~row;
}
inline uint32_t key_row(uint64_t key) { return ~static_cast<uint32_t>(key); }
inline float key_score(uint64_t key) {
    uint32_t bits = static_cast<uint32_t>(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7FFFFFFFu : ~bits;
    float score;
    std::memcpy(&score, &bits, 4);
    return score;
}

// Writes the k best of keys, in order, and pads.
inline void write_best(std::vector<uint64_t>& keys, int64_t k, int32_t* rows, float* scores) {
    const int64_t found = std::min<int64_t>(k, static_cast<int64_t>(keys.size()));
    if (found < static_cast<int64_t>(keys.size()))
        std::nth_element(keys.begin(), keys.begin() + found, keys.end(), std::greater<uint64_t>());
    std::sort(keys.begin(), keys.begin() + found, std::greater<uint64_t>());
    for (int64_t i = 0; i < found; ++i)
        rows[i] = static_cast<int32_t>(key_row(keys[i])), scores[i] = key_score(keys[i]);
    for (int64_t i = found; i < k; ++i) rows[i] = -1, scores[i] = -__builtin_inff();
}

// The same for keys that may hold a row more than once (with the same score, so with the same key).
inline void write_best_distinct(std::vector<uint64_t>& keys, int64_t k, int32_t* rows, float* scores) {
    const size_t head = std::min<size_t>(static_cast<size_t>(k), keys.size());
    if (head < keys.size()) std::nth_element(keys.begin(), keys.begin() + head, keys.end(), std::greater<uint64_t>());
    std::sort(keys.begin(), keys.begin() + head, std::greater<uint64_t>());
    if (std::adjacent_find(keys.begin(), keys.begin() + head) != keys.begin() + head) {
        std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
        keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    }
    write_best(keys, k, rows, scores);
}

// Rows that may be returned: allowed (null: all) and not deleted (null: none). Bit r of byte r / 8, least significant
// first.
struct Eligible {
    const uint8_t* allow;
    const uint8_t* deleted;
    int64_t n;

    bool all() const { return allow == nullptr && deleted == nullptr; }
    bool has(uint32_t row) const {
        const uint32_t byte = row >> 3, bit = row & 7;
        return (allow == nullptr || (allow[byte] >> bit & 1)) && (deleted == nullptr || !(deleted[byte] >> bit & 1));
    }
    // 64 rows from 64 * word on, rows from n on cleared.
    uint64_t word(int64_t at) const {
        const int64_t first_byte = at * 8, bytes = std::min<int64_t>(8, (n + 7) / 8 - first_byte);
        uint64_t yes = 0, no = 0;
        if (allow)
            std::memcpy(&yes, allow + first_byte, bytes);
        else
            yes = ~0ull;
        if (deleted) std::memcpy(&no, deleted + first_byte, bytes);
        const int64_t rows = n - at * 64;
        return yes & ~no & (rows < 64 ? (1ull << rows) - 1 : ~0ull);
    }
    int64_t words() const { return (n + 63) / 64; }
    int64_t count() const {
        if (all()) return n;
        int64_t total = 0;
        for (int64_t i = 0; i < words(); ++i) total += __builtin_popcountll(word(i));
        return total;
    }
};

}  // namespace kernel
