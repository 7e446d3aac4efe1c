// Arrays from Python as the views that the loops take, with every shape and type checked. Part of bindings.cpp.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "codes.h"
#include "select.h"

#include <optional>
#include <stdexcept>
#include <string>

namespace nb = nanobind;
using namespace kernel;

namespace {

using AnyRead = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
template <class T>
using Read1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Read2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Write1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Write2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<T>;

void require(bool condition, const std::string& sentence) {
    if (!condition) throw std::invalid_argument(sentence);
}

Vectors vectors_of(const AnyRead& a) {
    const bool half = a.dtype().bits == 16;
    require(a.ndim() == 2 && a.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) &&
                (half || a.dtype().bits == 32) && a.dtype().lanes == 1,
            "vectors must be a float16 or float32 array [n, d]");
    require(a.shape(0) < (size_t{1} << 31),
            "vectors has " + std::to_string(a.shape(0)) + " rows, the limit is 2^31 - 1");
    require(a.shape(1) >= 1 && a.shape(1) <= MAX_DIM,
            "vectors has " + std::to_string(a.shape(1)) + " dimensions, the limit is " + std::to_string(MAX_DIM));
    return {a.data(), static_cast<int64_t>(a.shape(0)), static_cast<int>(a.shape(1)), half};
}

void require_queries(const Read2<float>& xq, const Vectors& v) {
    require(static_cast<int64_t>(xq.shape(1)) == v.d,
            "xq has " + std::to_string(xq.shape(1)) + " dimensions, vectors has " + std::to_string(v.d));
}

void require_out(const Write2<int32_t>& rows, const Write2<float>& scores, const Read2<float>& xq) {
    require(rows.shape(0) == xq.shape(0) && scores.shape(0) == xq.shape(0) && rows.shape(1) == scores.shape(1),
            "the output arrays do not fit the queries");
}

Eligible eligible_of(const Maybe<Read1<uint8_t>>& allow, const Maybe<Read1<uint8_t>>& deleted, int64_t n) {
    const size_t bytes = static_cast<size_t>((n + 7) / 8);
    for (const auto* bitmap : {&allow, &deleted})
        if (*bitmap)
            require((*bitmap)->size() == bytes, "a bitmap of " + std::to_string((*bitmap)->size()) +
                                                    " bytes does not fit " + std::to_string(n) + " rows, which need " +
                                                    std::to_string(bytes));
    return {allow ? allow->data() : nullptr, deleted ? deleted->data() : nullptr, n};
}

template <class T>
const T* column(const Maybe<Read1<T>>& a, int64_t n, const char* name) {
    if (!a) return nullptr;
    require(static_cast<int64_t>(a->size()) == n,
            std::string(name) + " has " + std::to_string(a->size()) + " entries for " + std::to_string(n) + " rows");
    return a->data();
}

Codes codes_of(const Maybe<Read2<uint8_t>>& codes, const Maybe<Read1<float>>& scale, const Maybe<Read1<float>>& bias,
               const Vectors& v, int walk_bits) {
    const int w = code_width(v.d);
    if (!codes) return {nullptr, nullptr, nullptr, w, 8};
    require(static_cast<int64_t>(codes->shape(0)) == v.n && static_cast<int>(codes->shape(1)) == w,
            "codes must be [" + std::to_string(v.n) + ", " + std::to_string(w) + "] for these vectors");
    require(walk_bits == 4 || walk_bits == 8, "walk_bits must be 4 or 8");
    return {codes->data(), column(scale, v.n, "scale"), column(bias, v.n, "bias"), w, walk_bits};
}

Metric metric_of(int metric) { return metric ? Metric::L2 : Metric::DOT; }

}  // namespace
