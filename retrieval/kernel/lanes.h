// The arithmetic of one instruction level: float dot products and distances in 16 lanes, integer code dot products.
//
// One summation order for floats, at every level and in the numpy reference, so that a row's score is the same bits
// wherever it is computed: lane j adds products 16 i + j in order of i (multiply, then add: built with
// -ffp-contract=off), then lanes are folded 16 -> 8 -> 4 -> 2 -> 1, each time adding the upper half to the lower.
// Missing elements of the last 16 count as zeros. Code dot products are exact integers, so any order will do.
#pragma once
#include "half.h"
#include "layout.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {
using namespace kernel;

static inline void prefetch_row(const void* address, int bytes) {
    const char* p = static_cast<const char*>(address);
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// NaN (a damaged row) becomes -inf, so that every answer has an order.
static inline float finish(float sum, Metric metric) {
    const float score = metric == Metric::L2 ? 0.0f - sum : sum + 0.0f;  // + 0 turns -0 into +0
    return score == score ? score : -__builtin_inff();
}

#if defined(__AVX512F__)
#define KERNEL_LEVEL avx512
typedef __m512 Lanes;
static inline Lanes zero() { return _mm512_setzero_ps(); }
static inline Lanes load(const float* p) { return _mm512_loadu_ps(p); }
static inline Lanes load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline Lanes accumulate(Lanes sum, Lanes a, Lanes b) { return _mm512_add_ps(sum, _mm512_mul_ps(a, b)); }
static inline Lanes subtract(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
static inline __m128 fold(Lanes v) {
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), upper);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
#elif defined(__AVX2__)
#define KERNEL_LEVEL avx2
struct Lanes {
    __m256 a, b;
};
static inline Lanes zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline Lanes load(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
static inline Lanes accumulate(Lanes s, Lanes x, Lanes y) {
    return {_mm256_add_ps(s.a, _mm256_mul_ps(x.a, y.a)), _mm256_add_ps(s.b, _mm256_mul_ps(x.b, y.b))};
}
static inline Lanes subtract(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline __m128 fold(Lanes v) {
    const __m256 eight = _mm256_add_ps(v.a, v.b);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
#else
#define KERNEL_LEVEL plain
struct Lanes {
    float x[LANES];
};
struct Four {
    float x[4];
};
static inline Lanes zero() { return Lanes{}; }
static inline Lanes load(const float* p) {
    Lanes r;
    memcpy(r.x, p, sizeof r.x);
    return r;
}
static inline Lanes load(const uint16_t* p) {
    Lanes r;
    for (int j = 0; j < LANES; ++j) r.x[j] = half_to_float(p[j]);
    return r;
}
static inline Lanes accumulate(Lanes s, const Lanes& a, const Lanes& b) {
    for (int j = 0; j < LANES; ++j) s.x[j] += a.x[j] * b.x[j];
    return s;
}
static inline Lanes subtract(Lanes a, const Lanes& b) {
    for (int j = 0; j < LANES; ++j) a.x[j] -= b.x[j];
    return a;
}
static inline Four fold(const Lanes& v) {
    Four r;
    for (int j = 0; j < 4; ++j) r.x[j] = (v.x[j] + v.x[j + 8]) + (v.x[j + 4] + v.x[j + 12]);
    return r;
}
#endif

// out[r] = fold of lanes r, for four rows at once: the transpose shares the last two folds between them.
#if defined(__AVX2__)
static inline void fold_four(const Lanes* lanes, float* out) {
    __m128 a = fold(lanes[0]), b = fold(lanes[1]), c = fold(lanes[2]), e = fold(lanes[3]);
    _MM_TRANSPOSE4_PS(a, b, c, e);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, e)));
}
#else
static inline void fold_four(const Lanes* lanes, float* out) {
    for (int r = 0; r < 4; ++r) {
        const Four f = fold(lanes[r]);
        out[r] = (f.x[0] + f.x[2]) + (f.x[1] + f.x[3]);
    }
}
#endif

// Integer dot products of four code rows with the query's codes: of their upper four bits alone (HALVES 1), or of
// all (HALVES 2). Half a row has `bytes` bytes, a multiple of 32.
#if defined(__AVX512VNNI__)
static inline __m512i nibble_dots(__m512i sum, __m512i x, __m512i a, __m512i b) {
    const __m512i nibble = _mm512_set1_epi8(15);
    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(x, nibble), a);
    return _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble), b);
}
template <int HALVES>
static inline void code_dots(const uint8_t* const* rows, const int8_t* query, int bytes, int32_t* out) {
    __m512i s[4], t[4];
    for (int r = 0; r < 4; ++r) s[r] = t[r] = _mm512_setzero_si512();
    for (int i = 0; i < bytes; i += 64) {
        const __mmask64 present = bytes - i >= 64 ? ~0ull : 0xFFFFFFFFull;
        const __m512i a = _mm512_maskz_loadu_epi8(present, query + i);
        const __m512i b = _mm512_maskz_loadu_epi8(present, query + bytes + i);
        for (int r = 0; r < 4; ++r) s[r] = nibble_dots(s[r], _mm512_maskz_loadu_epi8(present, rows[r] + i), a, b);
        if (HALVES == 2)
            for (int r = 0; r < 4; ++r)
                t[r] = nibble_dots(t[r], _mm512_maskz_loadu_epi8(present, rows[r] + bytes + i), a, b);
    }
    if (HALVES == 2)
        for (int r = 0; r < 4; ++r) s[r] = _mm512_add_epi32(_mm512_slli_epi32(s[r], 4), t[r]);
    // two rows to a register, then four: 4 x 16 lanes -> 4 sums
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
    const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    const __m256i e = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
    _mm_storeu_si128((__m128i*)out, _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1)));
}
#elif defined(__AVX2__)
static inline __m256i nibble_dots(__m256i sum, const uint8_t* row, const int8_t* a, const int8_t* b) {
    const __m256i nibble = _mm256_set1_epi8(15), x = _mm256_loadu_si256((const __m256i*)row);
    const __m256i one = _mm256_and_si256(x, nibble), two = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
    // at most 4 * 15 * 127, so 16 bits do not overflow
    const __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_loadu_si256((const __m256i*)a)),
                                       _mm256_maddubs_epi16(two, _mm256_loadu_si256((const __m256i*)b)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(t, _mm256_set1_epi16(1)));
}
template <int HALVES>
static inline void code_dots(const uint8_t* const* rows, const int8_t* query, int bytes, int32_t* out) {
    for (int r = 0; r < 4; ++r) {
        __m256i s = _mm256_setzero_si256(), t = s;
        for (int i = 0; i < bytes; i += 32) {
            s = nibble_dots(s, rows[r] + i, query + i, query + bytes + i);
            if (HALVES == 2) t = nibble_dots(t, rows[r] + bytes + i, query + i, query + bytes + i);
        }
        if (HALVES == 2) s = _mm256_add_epi32(_mm256_slli_epi32(s, 4), t);
        __m128i u = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        u = _mm_add_epi32(u, _mm_shuffle_epi32(u, 0x4E));
        u = _mm_add_epi32(u, _mm_shuffle_epi32(u, 0xB1));
        out[r] = _mm_cvtsi128_si32(u);
    }
}
#else
template <int HALVES>
static inline void code_dots(const uint8_t* const* rows, const int8_t* query, int bytes, int32_t* out) {
    for (int r = 0; r < 4; ++r) {
        int32_t s = 0, t = 0;
        for (int i = 0; i < bytes; ++i) {
            s += (rows[r][i] & 15) * query[i] + (rows[r][i] >> 4) * query[bytes + i];
            if (HALVES == 2) t += (rows[r][bytes + i] & 15) * query[i] + (rows[r][bytes + i] >> 4) * query[bytes + i];
        }
        out[r] = HALVES == 2 ? 16 * s + t : s;
    }
}
#endif

}  // namespace
