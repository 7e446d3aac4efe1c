// With codes the scan stays exact: |q.x - approximation| is at most |q| |x - decoded x| + |q - decoded q| |decoded x|
// (Cauchy-Schwarz), so a row whose upper bound is below the k-th best exact score so far cannot be in the answer.
#include "scan.h"

#include <cmath>
#include <numeric>

namespace kernel {
namespace {

constexpr int64_t BLOCK = 8192;        // eligible rows taken at a time
constexpr int64_t FIRST_BLOCK = 1024;  // fewer at first: all of them pass while there is no k-th best score

// Half-width of the score interval of a row: slope * scale[row] + slack * |bias[row]| + constant.
struct Bound {
    float slope, slack, constant, unit;

    Bound(const ScanView& view, const PreparedQuery& query) {
        unit = unit_scale(view.codes.w);
        const double root = std::sqrt(static_cast<double>(view.codes.w));
        const double factor = view.metric == Metric::L2 ? 2.0 : 1.0;
        const double query_error = query.view.mult_both / factor * 0.5 * root * 1.01;  // |q - decoded q|
        const double row = 2.0 * query.norm * view.code_error + query_error * 255.0 * root;
        const double norm = 512.0 / 9.0 * root;  // |x| = norm * scale
        slope = static_cast<float>(factor * (row * 1.0001 + 2e-5 * query.norm * norm));
        slack = 2e-5f;
        constant = view.metric == Metric::L2 ? 2e-5f * query.norm * query.norm : 0.0f;
    }
    float at(const ScanView& view, uint32_t row) const {
        const float scale = view.codes.scale ? view.codes.scale[row] : unit;
        return slope * scale + constant + (view.codes.bias ? slack * std::fabs(view.codes.bias[row]) : 0.0f);
    }
};

class Best {  // keeps the k largest keys of a stream
  public:
    explicit Best(int64_t k) : k_(static_cast<size_t>(k)) { keys.reserve(room()); }
    void add(float score, uint32_t row) {
        const uint64_t key = key_of(score, row);
        if (key <= floor_) return;
        keys.push_back(key);
        if (keys.size() >= room()) shrink();
    }
    // A row with a score below this cannot be in the answer.
    float needed() {
        if (keys.size() >= k_) shrink();
        return floor_ ? key_score(floor_) : -__builtin_inff();
    }
    std::vector<uint64_t> keys;

  private:
    size_t room() const { return 2 * k_ + 512; }
    void shrink() {
        if (keys.size() > k_ || floor_ == 0) {
            std::nth_element(keys.begin(), keys.begin() + (k_ - 1), keys.end(), std::greater<uint64_t>());
            keys.resize(k_);
            floor_ = keys[k_ - 1];
        }
    }
    size_t k_;
    uint64_t floor_ = 0;
};

class Scan {
  public:
    Scan(const ScanView& view, const Level& level, const PreparedQuery& query, int64_t k)
        : view_(view),
          level_(level),
          query_(query),
          bound_(view, query),
          k_(k),
          best_(k),
          values_(BLOCK + 64),
          codes_(query.view) {
        Codes& c = codes_view_ = view.codes;
        // where every row has the same step it is folded into the query's multiplier
        if (c.data && c.scale == nullptr) codes_.mult_both *= unit_scale(c.w);
        if (view.metric == Metric::L2) shift_ = query.norm * query.norm;
    }

    // rows null: m rows from first on.
    void block(const uint32_t* rows, int64_t first, int64_t m) {
        scored_ += m;
        if (view_.codes.data == nullptr) return exactly(rows, first, m);
        level_.approximate(codes_view_, codes_, rows, first, m, values_.data());
        const float floor = best_.needed();
        kept_.clear();
        for (int64_t i = 0; i < m; ++i) {
            const uint32_t row = rows ? rows[i] : static_cast<uint32_t>(first + i);
            const float upper = values_[i] - shift_ + bound_.at(view_, row);
            if (!(upper < floor)) kept_.push_back(key_of(upper == upper ? upper : __builtin_inff(), row));
        }
        // The best k by upper bound first: their exact scores raise the floor for the others.
        const int64_t head = std::min<int64_t>(static_cast<int64_t>(kept_.size()), k_);
        if (head == 0) return;
        std::nth_element(kept_.begin(), kept_.begin() + (head - 1), kept_.end(), std::greater<uint64_t>());
        rescore(0, head, -__builtin_inff());
        rescore(head, static_cast<int64_t>(kept_.size()), best_.needed());
    }

    int64_t finish(int32_t* rows, float* scores) {
        write_best(best_.keys, k_, rows, scores);
        return scored_;
    }

  private:
    void exactly(const uint32_t* rows, int64_t first, int64_t m) {
        values_.resize(std::max<size_t>(values_.size(), static_cast<size_t>(m)));
        level_.score(view_.vectors, view_.metric, query_.view.exact, rows, first, m, values_.data());
        const float floor = best_.needed();
        for (int64_t i = 0; i < m; ++i)
            if (values_[i] >= floor) best_.add(values_[i], rows ? rows[i] : static_cast<uint32_t>(first + i));
    }
    void rescore(int64_t from, int64_t to, float floor) {
        chosen_.clear();
        for (int64_t i = from; i < to; ++i)
            if (key_score(kept_[i]) >= floor) chosen_.push_back(key_row(kept_[i]));
        if (!chosen_.empty()) exactly(chosen_.data(), 0, static_cast<int64_t>(chosen_.size()));
    }

    const ScanView& view_;
    const Level& level_;
    const PreparedQuery& query_;
    Bound bound_;
    int64_t k_, scored_ = 0;
    Best best_;
    std::vector<float> values_;
    std::vector<uint64_t> kept_;
    std::vector<uint32_t> chosen_;
    Query codes_;
    Codes codes_view_{};
    float shift_ = 0;  // approximations leave out the query's own |q|^2
};

}  // namespace

int64_t scan(const ScanView& view, const Level& level, const float* query, int64_t k, const Eligible& eligible,
             int32_t* rows, float* scores) {
    PreparedQuery prepared;
    prepared.prepare(query, view.vectors.d, view.metric, view.codes.data ? view.rotation : nullptr);
    k = std::max<int64_t>(k, 1);
    ScanView used = view;
    // a query this small rounds to subnormal numbers, which the bound does not cover: score every row exactly
    if (!(prepared.norm >= 1e-30f)) used.codes.data = nullptr;
    Scan run(used, level, prepared, k);
    const int64_t n = view.vectors.n;
    int64_t block = FIRST_BLOCK;
    if (eligible.all()) {
        for (int64_t first = 0; first < n; first += block, block = BLOCK)
            run.block(nullptr, first, std::min(block, n - first));
        return run.finish(rows, scores);
    }
    std::vector<uint32_t> list(BLOCK + 64);
    int64_t m = 0;
    for (int64_t at = 0; at < eligible.words(); ++at) {
        for (uint64_t word = eligible.word(at); word; word &= word - 1)
            list[m++] = static_cast<uint32_t>(at * 64 + __builtin_ctzll(word));
        if (m < block && at + 1 < eligible.words()) continue;
        run.block(list.data(), 0, m);
        m = 0;
        block = BLOCK;
    }
    return run.finish(rows, scores);
}

}  // namespace kernel
