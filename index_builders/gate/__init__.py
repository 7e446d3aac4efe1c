"""The gate before publishing: a new generation held against the one it is to replace.

`judge` measures and compares, `write_report` tells a person why. Knows two generations and nothing about how they were
built or which one is live; it changes neither.
"""

from index_builders.gate.judge import judge
from index_builders.gate.limits import GateLimits, make_limits, read_limits
from index_builders.gate.report import GateReport
from index_builders.gate.write import write_report

__all__ = ["GateLimits", "GateReport", "judge", "make_limits", "read_limits", "write_report"]
