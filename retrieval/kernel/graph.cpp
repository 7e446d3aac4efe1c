#include "graph.h"

#include <cmath>
#include <stdexcept>

namespace kernel {

// ---- checks --------------------------------------------------------------------------------------

// Every entry is below `limit` less `base`, or the padding; after padding comes only padding.
static bool adjacency_is_sound(const uint32_t* list, int64_t count, int width, uint32_t base, uint32_t limit) {
    uint32_t wrong = 0;
    const int64_t total = count * width;
    for (int64_t i = 0; i < total; ++i) wrong |= (list[i] - base >= limit - base) & (list[i] != NO_NEIGHBOR);
    for (int64_t r = 0; r < count; ++r) {
        const uint32_t* row = list + r * width;
        for (int j = 1; j < width; ++j) wrong |= (row[j - 1] == NO_NEIGHBOR) & (row[j] != NO_NEIGHBOR);
    }
    return wrong == 0;
}

std::string find_damage(const GraphView& g, const std::vector<int64_t>& layer_first) {
    const uint32_t n = static_cast<uint32_t>(g.vectors.n);
    if (!adjacency_is_sound(g.neighbors, g.vectors.n, g.width, 0, n))
        return "neighbors names a row outside 0.." + std::to_string(n - 1) + ", or has a gap in a row's list";
    const int64_t slots = layer_first.back();
    for (int layer = 1; layer <= g.layers; ++layer) {
        const int64_t first = layer_first[layer - 1], end = layer_first[layer];
        const std::string name = "upper layer " + std::to_string(layer);
        if (first >= end || end > slots) return name + " has no slots";
        if (!adjacency_is_sound(g.upper_neighbors + first * g.upper_width, end - first, g.upper_width,
                                static_cast<uint32_t>(first), static_cast<uint32_t>(end)))
            return name + " names a slot outside its own";
        const uint32_t below = layer == 1 ? 0 : static_cast<uint32_t>(layer_first[layer - 2]);
        const uint32_t below_end = layer == 1 ? n : static_cast<uint32_t>(first);
        for (int64_t slot = first; slot < end; ++slot) {
            const uint32_t row = g.upper_rows[slot], down = g.upper_down[slot];
            if (down < below || down >= below_end) return name + " leads to a slot outside the layer below";
            // so a row is below n: it is `down` itself in layer 1, and layers above lead down to it
            if (row != (layer == 1 ? down : g.upper_rows[down])) return name + " leads down to another row";
        }
    }
    const int64_t low = g.layers ? layer_first[g.layers - 1] : 0, high = g.layers ? layer_first[g.layers] : n;
    if (g.entry < low || g.entry >= high)
        return "entry point " + std::to_string(g.entry) + " is outside the top layer's " + std::to_string(low) + ".." +
               std::to_string(high - 1);
    for (const float* values : {g.codes.scale, g.codes.bias}) {
        if (values == nullptr) continue;
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < n; ++i) wrong |= !(std::fabs(values[i]) <= 3.0e38f);
        if (wrong) return "a row's scale or norm is not finite";
    }
    return "";
}

// ---- search --------------------------------------------------------------------------------------

constexpr int64_t LARGE_POOL = 1000;

struct Graph::Space {
    std::vector<uint64_t> met, pool, fresh, keys;
    std::vector<uint32_t> batch, orders, rows;
    std::vector<float> values;
    PreparedQuery query;
};

Graph::Graph(const GraphView& view, const std::vector<int64_t>& layer_first, uint64_t seed, float code_error)
    : view_(view), rotation_(view.vectors.d, seed), code_error_(code_error) {
    const std::string damage = find_damage(view, layer_first);
    if (!damage.empty()) throw std::invalid_argument(damage);
}

Graph::~Graph() = default;

std::unique_ptr<Graph::Space> Graph::take() const {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!spaces_.empty()) {
            std::unique_ptr<Space> space = std::move(spaces_.back());
            spaces_.pop_back();
            return space;
        }
    }
    auto space = std::make_unique<Space>();
    space->met.resize(static_cast<size_t>(view_.vectors.n / 64 + 1));
    return space;
}

void Graph::give(std::unique_ptr<Space> space) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    spaces_.push_back(std::move(space));
}

// More rows per step where the pool is large: their fetches overlap, and one merge of the pool serves them all.
static int beam_of(int64_t pool_size) { return pool_size <= LARGE_POOL ? 6 : MAX_BEAM; }

// Approximate scores of pool entries, and how far off they may be. Errors of rotated coordinates are close to
// independent and uniform over a step, so their inner product with the query is close to normal, with this standard
// deviation times scale[row]; beyond six of them lies one case in 10^9.
struct Blur {
    const GraphView& g;
    const Query& q;
    float deviation;

    Blur(const GraphView& view, const PreparedQuery& query) : g(view), q(query.view) {
        const float factor = view.metric == Metric::L2 ? 2.0f : 1.0f,
                    root = std::sqrt(static_cast<float>(view.codes.w));
        const float row = (view.codes.walk_bits == 4 ? 32.0f : 2.0f) * query.norm * factor,
                    norm = 512.0f / 9.0f * root;  // |x| = norm * scale
        deviation = 0.2887f * std::sqrt(row * row + q.mult_high * q.mult_high * norm * norm);
    }
    float margin(uint32_t row) const {
        return 6.0f * deviation * (g.codes.scale ? g.codes.scale[row] : unit_scale(g.codes.w));
    }
    float value(uint64_t entry) const {
        const uint32_t order = static_cast<uint32_t>(entry >> 32);
        if (g.codes.scale) return key_score(static_cast<uint64_t>(order) << 32);
        const float step = (g.codes.walk_bits == 4 ? 32.0f : 2.0f) * q.mult_high * unit_scale(g.codes.w);
        return step * static_cast<float>(static_cast<int32_t>(order ^ 0x80000000u));
    }
};

// Codes confuse the order near the pool's end, hence a little room beyond k.
static int64_t slack(const Codes& codes, int64_t k) {
    return codes.data == nullptr ? 0 : codes.walk_bits == 4 ? k / 3 + 16 : k / 8 + 8;
}

static uint32_t pool_row(uint64_t entry) { return 0x7FFFFFFFu - (static_cast<uint32_t>(entry) >> 1); }

Work Graph::search(const Level& level, const float* query, int64_t k, int64_t ef, int64_t max_distances,
                   const Eligible& eligible, int64_t eligible_count, int32_t* rows, float* scores) const {
    const int64_t n = view_.vectors.n, wanted = std::min(k, eligible_count);
    Work work;
    std::unique_ptr<Space> space = take();
    Space& s = *space;
    s.query.prepare(query, view_.vectors.d, view_.metric, view_.codes.data ? &rotation_ : nullptr);
    s.keys.clear();
    // Of a pool of all rows about pool * eligible_count / n are eligible; they are the best eligible ones whatever the
    // filter has to do with the query, provided there are enough of them. Recall rises with the pool at the same share
    // of eligible rows in it, hence the exponent.
    int64_t pool = std::max(k + slack(view_.codes, k), ef);
    // As in hnswlib the best ef are expanded, at least k; what room there is beyond them is only scored exactly.
    const int64_t beyond = pool - std::max(k, ef);
    if (eligible_count < n && eligible_count > 0) {
        const double rarity = static_cast<double>(n) / static_cast<double>(eligible_count);
        pool = static_cast<int64_t>(std::ceil(
            std::max(static_cast<double>(pool) * std::pow(rarity, 0.8), 1.25 * static_cast<double>(wanted) * rarity)));
    }
    bool complete = wanted == 0;
    while (!complete) {
        pool = std::min(pool, n);
        const int64_t width = pool < n ? pool - beyond : pool;
        const int beam = beam_of(pool);
        const size_t room = static_cast<size_t>(std::max(beam * view_.width, view_.upper_width)) + 4;
        if (s.pool.size() < static_cast<size_t>(pool) + 1) s.pool.resize(pool + 1);
        if (s.orders.size() < room)
            s.batch.resize(2 * room), s.orders.resize(room), s.values.resize(room), s.fresh.resize(2 * room + 32);
        std::fill(s.met.begin(), s.met.end(), 0);
        Scratch scratch{};
        scratch.met = s.met.data(), scratch.pool = s.pool.data(), scratch.fresh = s.fresh.data();
        scratch.batch = s.batch.data(), scratch.orders = s.orders.data(), scratch.values = s.values.data();
        scratch.room = static_cast<int64_t>(room), scratch.width = width;
        scratch.rescored = view_.codes.data && eligible.all() && pool <= LARGE_POOL;
        const int64_t budget = max_distances ? std::max<int64_t>(max_distances - work.distances, 1) : 0;
        level.walk(view_, s.query.view, scratch, pool, beam, budget);
        work.distances += scratch.distances, work.hops += scratch.hops;
        s.rows.clear();
        const Blur blur(view_, s.query);
        float needed = -INFINITY;  // rows that cannot reach the k-th are not worth a look at their vectors
        for (int64_t i = 0; i < scratch.size; ++i) {
            const uint32_t row = pool_row(s.pool[i]);
            if (!eligible.all() && !eligible.has(row)) continue;
            if (view_.codes.data) {
                const float value = blur.value(s.pool[i]), margin = blur.margin(row);
                if (value + margin < needed) continue;
                if (static_cast<int64_t>(s.rows.size()) == k - 1) needed = value - margin;
            }
            s.rows.push_back(row);
        }
        const int64_t found = static_cast<int64_t>(s.rows.size());
        complete = found >= wanted || (max_distances && work.distances >= max_distances);
        // Wider, unless that was everything within reach or a scan would be cheaper than the next attempt.
        if (!complete && (scratch.size < pool || pool == n || 4 * scratch.distances > eligible_count)) break;
        pool *= 4;
    }
    if (!complete) {
        work.distances += scan_one(level, query, k, eligible, rows, scores);
        give(std::move(space));
        return work;
    }
    const int64_t m = wanted ? static_cast<int64_t>(s.rows.size()) : 0;
    s.values.resize(std::max<size_t>(s.values.size(), static_cast<size_t>(m)));
    level.score(view_.vectors, view_.metric, s.query.view.exact, s.rows.data(), 0, m, s.values.data());
    for (int64_t i = 0; i < m; ++i) s.keys.push_back(key_of(s.values[i], s.rows[i]));
    write_best(s.keys, k, rows, scores);
    give(std::move(space));
    return work;
}

int64_t Graph::scan_one(const Level& level, const float* query, int64_t k, const Eligible& eligible, int32_t* rows,
                        float* scores) const {
    const bool coded = view_.codes.data != nullptr;
    const ScanView scan_view{view_.vectors, view_.metric, view_.codes, coded ? &rotation_ : nullptr, code_error_};
    return scan(scan_view, level, query, k, eligible, rows, scores);
}

// ---- building ------------------------------------------------------------------------------------

void spread(const uint32_t* neighbors, int64_t n, int width, const uint32_t* sources, int64_t source_count,
            uint32_t* owner, uint32_t* order) {
    std::fill(owner, owner + n, NO_NEIGHBOR);
    int64_t head = 0, tail = 0;
    const auto meet = [&](uint32_t row, uint32_t source) {
        if (row < n && owner[row] == NO_NEIGHBOR) owner[row] = source, order[tail++] = row;
    };
    for (int64_t i = 0; i < source_count; ++i) meet(sources[i], static_cast<uint32_t>(i));
    for (int64_t next = 0; tail < n || head < tail;) {
        if (head == tail) {  // a part that no source reaches goes to the first source, at the end
            while (owner[next] != NO_NEIGHBOR) ++next;
            meet(static_cast<uint32_t>(next), 0);
        }
        const uint32_t row = order[head++];
        const uint32_t* list = neighbors + static_cast<int64_t>(row) * width;
        for (int j = 0; j < width; ++j) meet(list[j], owner[row]);
    }
}

}  // namespace kernel
