// Exact search without a graph: every eligible row, or only those that the codes cannot rule out.
#pragma once
#include "codes.h"
#include "select.h"

namespace kernel {

struct ScanView {
    Vectors vectors;
    Metric metric;
    Codes codes;               // data null: scores come from the vectors alone
    const Rotation* rotation;  // null without codes
    float code_error;          // largest |x - decoded x| in units of the row's step
};

// The k best eligible rows of one query, in the tie order, padded. Returns the number of rows whose score was computed.
int64_t scan(const ScanView& view, const Level& level, const float* query, int64_t k, const Eligible& eligible,
             int32_t* rows, float* scores);

}  // namespace kernel
