// The graph handle: checks the arrays once, then searches them.
#pragma once
#include "codes.h"
#include "scan.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace kernel {

// layer_first [layers + 1]: the first slot of each upper layer, and the number of slots. Returns why the arrays cannot
// be searched, or "" when nothing that the search trusts is wrong.
std::string find_damage(const GraphView& view, const std::vector<int64_t>& layer_first);

struct Work {
    int64_t distances = 0, hops = 0;
};

class Graph {
  public:
    // Throws std::invalid_argument with one sentence when the arrays are damaged. Copies no array.
    Graph(const GraphView& view, const std::vector<int64_t>& layer_first, uint64_t seed, float code_error);
    ~Graph();

    // One query, k results in the tie order, padded.
    Work search(const Level& level, const float* query, int64_t k, int64_t ef, int64_t max_distances,
                const Eligible& eligible, int64_t eligible_count, int32_t* rows, float* scores) const;
    int64_t scan_one(const Level& level, const float* query, int64_t k, const Eligible& eligible, int32_t* rows,
                     float* scores) const;
    const GraphView& view() const { return view_; }

  private:
    struct Space;  // one search's buffers
    std::unique_ptr<Space> take() const;
    void give(std::unique_ptr<Space> space) const;

    GraphView view_;
    Rotation rotation_;
    float code_error_;
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Space>> spaces_;  // idle buffers, at most as many as searches ran at once
};

// Breadth-first walk from all sources at once: owner[row] is the index of the source whose walk met the row first,
// order the rows as they were met. Adjacency [n, width]; entries from n on are skipped.
void spread(const uint32_t* neighbors, int64_t n, int width, const uint32_t* sources, int64_t source_count,
            uint32_t* owner, uint32_t* order);

}  // namespace kernel
