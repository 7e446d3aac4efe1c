// Chooses an instruction level at run time. The loops of each level live in hot.cpp, compiled once per level.
#pragma once
#include "layout.h"

#include <string>
#include <vector>

namespace kernel {

// The levels that this machine runs, best first; the last is always "plain".
const std::vector<const Level*>& offered_levels();

// The level of that name, or the best for an empty name; throws std::invalid_argument for one that is not offered.
const Level& level_named(const std::string& name);

}  // namespace kernel
