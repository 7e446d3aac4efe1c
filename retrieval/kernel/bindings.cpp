// The Python module: turns arrays into views, checks every shape and type, releases the GIL, runs the loops.
// Mistakes come out as ValueError; retrieval/kernel/__init__.py translates them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "graph.h"
#include "levels.h"
#include "parallel.h"
#include "views.h"

#include <cmath>
#include <optional>
#include <stdexcept>

namespace nb = nanobind;
using namespace kernel;

namespace {

// ---- stateless operations ------------------------------------------------------------------------

void score(const AnyRead& vectors, const Read2<float>& xq, const Read2<int32_t>& rows, const Write2<float>& out,
           int metric, int threads, const std::string& level_name) {
    const Vectors v = vectors_of(vectors);
    require_queries(xq, v);
    require(rows.shape(0) == xq.shape(0) && out.shape(0) == rows.shape(0) && out.shape(1) == rows.shape(1),
            "rows must have one line for each query");
    const Level& level = level_named(level_name);
    const int64_t r = static_cast<int64_t>(rows.shape(1));
    for (size_t i = 0; i < rows.size(); ++i)
        require(rows.data()[i] >= -1 && rows.data()[i] < v.n,
                "row " + std::to_string(rows.data()[i]) + " is outside 0.." + std::to_string(v.n - 1));
    const nb::gil_scoped_release released;
    parallel_for(static_cast<int64_t>(xq.shape(0)), threads, [&](int64_t i) {
        PreparedQuery query;
        query.prepare(xq.data() + i * v.d, v.d, metric_of(metric), nullptr);
        const int32_t* wanted = rows.data() + i * r;
        float* scores = out.data() + i * r;
        std::vector<uint32_t> list;
        for (int64_t j = 0; j < r; ++j)
            if (wanted[j] >= 0) list.push_back(static_cast<uint32_t>(wanted[j]));
        std::vector<float> values(list.size());
        level.score(v, metric_of(metric), query.view.exact, list.data(), 0, static_cast<int64_t>(list.size()),
                    values.data());
        for (int64_t j = 0, at = 0; j < r; ++j) scores[j] = wanted[j] >= 0 ? values[at++] : -INFINITY;
    });
}

void rescore(const AnyRead& vectors, const Read2<float>& xq, const Read2<int32_t>& candidates,
             const Write2<int32_t>& rows, const Write2<float>& scores, int metric, int threads,
             const std::string& level_name) {
    const Vectors v = vectors_of(vectors);
    require_queries(xq, v);
    require_out(rows, scores, xq);
    require(candidates.shape(0) == xq.shape(0), "candidates must have one line for each query");
    const Level& level = level_named(level_name);
    const int64_t c = static_cast<int64_t>(candidates.shape(1)), k = static_cast<int64_t>(rows.shape(1));
    for (size_t i = 0; i < candidates.size(); ++i)
        require(candidates.data()[i] >= -1 && candidates.data()[i] < v.n,
                "candidate " + std::to_string(candidates.data()[i]) + " is outside 0.." + std::to_string(v.n - 1));
    const nb::gil_scoped_release released;
    parallel_for(static_cast<int64_t>(xq.shape(0)), threads, [&](int64_t i) {
        PreparedQuery query;
        query.prepare(xq.data() + i * v.d, v.d, metric_of(metric), nullptr);
        std::vector<uint32_t> list;
        list.reserve(static_cast<size_t>(c));
        for (int64_t j = 0; j < c; ++j)
            if (candidates.data()[i * c + j] >= 0) list.push_back(static_cast<uint32_t>(candidates.data()[i * c + j]));
        std::vector<float> values(list.size());
        level.score(v, metric_of(metric), query.view.exact, list.data(), 0, static_cast<int64_t>(list.size()),
                    values.data());
        std::vector<uint64_t> keys(list.size());
        for (size_t j = 0; j < list.size(); ++j) keys[j] = key_of(values[j], list[j]);
        write_best_distinct(keys, k, rows.data() + i * k, scores.data() + i * k);
    });
}

int64_t scan_rows(const AnyRead& vectors, const Read2<float>& xq, const Write2<int32_t>& rows,
                  const Write2<float>& scores, int metric, const Maybe<Read1<uint8_t>>& allow,
                  const Maybe<Read1<uint8_t>>& deleted, const Maybe<Read2<uint8_t>>& codes,
                  const Maybe<Read1<float>>& scale, const Maybe<Read1<float>>& bias, uint64_t seed, float code_error,
                  int threads, const std::string& level_name) {
    const Vectors v = vectors_of(vectors);
    require_queries(xq, v);
    require_out(rows, scores, xq);
    const Eligible eligible = eligible_of(allow, deleted, v.n);
    const Codes c = codes_of(codes, scale, bias, v, 8);
    const Level& level = level_named(level_name);
    const int64_t k = static_cast<int64_t>(rows.shape(1));
    std::atomic<int64_t> scanned{0};
    const nb::gil_scoped_release released;
    const Rotation rotation(v.d, seed);
    const ScanView view{v, metric_of(metric), c, &rotation, code_error};
    parallel_for(static_cast<int64_t>(xq.shape(0)), threads, [&](int64_t i) {
        scanned += scan(view, level, xq.data() + i * v.d, k, eligible, rows.data() + i * k, scores.data() + i * k);
    });
    return scanned;
}

// ---- building ------------------------------------------------------------------------------------

std::tuple<double, double, double> encode_rows(const AnyRead& vectors, const Write2<uint8_t>& codes,
                                               const Maybe<Write1<float>>& scale, const Maybe<Write1<float>>& bias,
                                               uint64_t seed, int threads) {
    const Vectors v = vectors_of(vectors);
    const Rotation rotation(v.d, seed);
    require(static_cast<int64_t>(codes.shape(0)) == v.n && static_cast<int>(codes.shape(1)) == rotation.width(),
            "codes must be [" + std::to_string(v.n) + ", " + std::to_string(rotation.width()) + "]");
    for (const auto* a : {&scale, &bias})
        if (*a) require(static_cast<int64_t>((*a)->size()) == v.n, "scale and bias must have one entry for each row");
    const int64_t block = 4096, blocks = (v.n + block - 1) / block;
    std::vector<double> worst(blocks), error(blocks), norm(blocks);  // summed in order, whatever the threads
    float* scales = scale ? scale->data() : nullptr;
    float* biases = bias ? bias->data() : nullptr;
    const nb::gil_scoped_release released;
    parallel_for(blocks, threads, [&](int64_t b) {
        worst[b] = encode(v, rotation, b * block, std::min(block, v.n - b * block), codes.data(), scales, biases,
                          &error[b], &norm[b]);
    });
    double largest = 0, errors = 0, norms = 0;
    for (int64_t b = 0; b < blocks; ++b) largest = std::max(largest, worst[b]), errors += error[b], norms += norm[b];
    return {largest, errors, norms};
}

void spread_from(const Read2<uint32_t>& neighbors, const Read1<uint32_t>& sources, const Write1<uint32_t>& owner,
                 const Write1<uint32_t>& order) {
    const size_t n = neighbors.shape(0);
    require(owner.size() == n && order.size() == n && sources.size() > 0,
            "owner and order must have one entry for each row");
    const nb::gil_scoped_release released;
    spread(neighbors.data(), static_cast<int64_t>(n), static_cast<int>(neighbors.shape(1)), sources.data(),
           static_cast<int64_t>(sources.size()), owner.data(), order.data());
}

// ---- the graph -----------------------------------------------------------------------------------

class GraphHandle {  // a Graph, and the arrays it looks into
  public:
    GraphHandle(AnyRead vectors, Read2<uint32_t> neighbors, Read1<uint32_t> upper_rows, Read1<uint32_t> upper_down,
                Read2<uint32_t> upper_neighbors, const std::vector<int64_t>& layer_first, int64_t entry, int metric,
                Maybe<Read2<uint8_t>> codes, Maybe<Read1<float>> scale, Maybe<Read1<float>> bias, uint64_t seed,
                float code_error, int walk_bits)
        : vectors_(vectors),
          neighbors_(neighbors),
          upper_rows_(upper_rows),
          upper_down_(upper_down),
          upper_neighbors_(upper_neighbors),
          codes_(codes),
          scale_(scale),
          bias_(bias) {
        GraphView g{};
        g.vectors = vectors_of(vectors);
        require(g.vectors.n >= 1, "a graph needs at least one row");
        g.metric = metric_of(metric);
        g.codes = codes_of(codes, scale, bias, g.vectors, walk_bits);
        require(static_cast<int64_t>(neighbors.shape(0)) == g.vectors.n && neighbors.shape(1) >= 1 &&
                    neighbors.shape(1) <= 4096,
                "neighbors must be [" + std::to_string(g.vectors.n) + ", 1..4096]");
        g.neighbors = neighbors.data(), g.width = static_cast<int>(neighbors.shape(1));
        const size_t slots = upper_rows.size();
        require(slots < NO_NEIGHBOR && upper_down.size() == slots && upper_neighbors.shape(0) == slots &&
                    upper_neighbors.shape(1) >= 1 && upper_neighbors.shape(1) <= 4096,
                "the upper layers' arrays do not have the same length");
        g.upper_rows = upper_rows.data(), g.upper_down = upper_down.data(), g.upper_neighbors = upper_neighbors.data();
        g.upper_width = static_cast<int>(upper_neighbors.shape(1));
        require(!layer_first.empty() && layer_first.size() <= 65 && layer_first.front() == 0 &&
                    layer_first.back() == static_cast<int64_t>(slots),
                "layer_first must run from 0 to the number of slots, over at most 64 layers");
        g.layers = static_cast<int>(layer_first.size()) - 1;
        require(entry >= 0 && entry < static_cast<int64_t>(NO_NEIGHBOR),
                "entry point " + std::to_string(entry) + " is not a row");
        g.entry = static_cast<uint32_t>(entry);
        require(std::isfinite(code_error) && code_error >= 0, "code_error must be finite");
        const nb::gil_scoped_release released;
        graph_ = std::make_unique<Graph>(g, layer_first, seed, code_error);
    }

    void search(const Read2<float>& xq, const Write2<int32_t>& rows, const Write2<float>& scores,
                const Write1<int64_t>& distances, const Write1<int64_t>& hops, int64_t ef, int64_t max_distances,
                const Maybe<Read1<uint8_t>>& allow, const Maybe<Read1<uint8_t>>& deleted, int threads,
                const std::string& level_name, bool scan_only) const {
        const Vectors& v = graph_->view().vectors;
        require_queries(xq, v);
        require_out(rows, scores, xq);
        require(distances.size() == xq.shape(0) && hops.size() == xq.shape(0), "the counters do not fit the queries");
        require(ef >= 1 && max_distances >= 0, "ef must be at least 1 and max_distances at least 0");
        const Eligible eligible = eligible_of(allow, deleted, v.n);
        const Level& level = level_named(level_name);
        const int64_t k = static_cast<int64_t>(rows.shape(1));
        const nb::gil_scoped_release released;
        const int64_t count = scan_only ? 0 : eligible.count();
        parallel_for(static_cast<int64_t>(xq.shape(0)), threads, [&](int64_t i) {
            const float* query = xq.data() + i * v.d;
            Work work;
            if (scan_only)
                work.distances =
                    graph_->scan_one(level, query, k, eligible, rows.data() + i * k, scores.data() + i * k);
            else
                work = graph_->search(level, query, k, ef, max_distances, eligible, count, rows.data() + i * k,
                                      scores.data() + i * k);
            distances.data()[i] = work.distances, hops.data()[i] = work.hops;
        });
    }

  private:
    AnyRead vectors_;
    Read2<uint32_t> neighbors_;
    Read1<uint32_t> upper_rows_, upper_down_;
    Read2<uint32_t> upper_neighbors_;
    Maybe<Read2<uint8_t>> codes_;
    Maybe<Read1<float>> scale_, bias_;
    std::unique_ptr<Graph> graph_;
};

}  // namespace

NB_MODULE(_native, m) {
    using nb::arg;
    m.def("levels", [] {
        std::vector<std::string> names;
        for (const Level* level : offered_levels()) names.emplace_back(level->name);
        return names;
    });
    m.def("code_width", &code_width);
    // Arrays are taken as they are or refused: a silent conversion would copy what is meant to stay mapped.
    const auto array = [] { return nb::arg().noconvert(); };
    const auto maybe = [] { return nb::arg().noconvert().none(); };
    m.def(
        "count",
        [](const Maybe<Read1<uint8_t>>& allow, const Maybe<Read1<uint8_t>>& deleted, int64_t n) {
            return eligible_of(allow, deleted, n).count();
        },
        maybe(), maybe(), arg());
    m.def("score", &score, array(), array(), array(), array(), arg(), arg(), arg());
    m.def("rescore", &rescore, array(), array(), array(), array(), array(), arg(), arg(), arg());
    m.def("scan", &scan_rows, array(), array(), array(), array(), arg(), maybe(), maybe(), maybe(), maybe(), maybe(),
          arg(), arg(), arg(), arg());
    m.def("encode", &encode_rows, array(), array(), maybe(), maybe(), arg(), arg());
    m.def("spread", &spread_from, array(), array(), array(), array());
    nb::class_<GraphHandle>(m, "Graph")
        .def(nb::init<AnyRead, Read2<uint32_t>, Read1<uint32_t>, Read1<uint32_t>, Read2<uint32_t>,
                      const std::vector<int64_t>&, int64_t, int, Maybe<Read2<uint8_t>>, Maybe<Read1<float>>,
                      Maybe<Read1<float>>, uint64_t, float, int>(),
             array(), array(), array(), array(), array(), arg(), arg(), arg(), maybe(), maybe(), maybe(), arg(), arg(),
             arg())
        .def("search", &GraphHandle::search, array(), array(), array(), array(), array(), arg(), arg(), maybe(),
             maybe(), arg(), arg(), arg());
}
