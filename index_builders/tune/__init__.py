"""Choosing kind and parameters of a build by what its answers must be worth and what they may cost.

`bounds` what is wanted; `candidates` what may be built; `sample` rows to try them on; `trial` builds and measures;
`extrapolate` from the sample to a shard; `choose` one, with a reason for each that is not; `outcome` holds the promise
against the real build. `search` runs them in that order.
"""

from index_builders.tune.bounds import Bounds, make_bounds
from index_builders.tune.choose import Choice, Verdict
from index_builders.tune.search import TuneReport, tune

__all__ = ["Bounds", "Choice", "TuneReport", "Verdict", "make_bounds", "tune"]
