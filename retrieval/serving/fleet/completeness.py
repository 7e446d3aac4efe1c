"""How many candidates each shard returns, so that the best k of all shards are complete with a wanted probability.

Placement is by a hash of the id, so each of the true best k lies in a shard independently with the shard's share of the
rows: their number there is binomial. Knows nothing about indexes or where a shard runs.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4_096)
def shard_k(k: int, share: float, shards: int, probability: float) -> int:
    """Candidates, 1 to k, that a shard with `share` of all rows returns of a top k over `shards` shards.

    The smallest c whose tail P[Binomial(k, share) > c] is at most (1 - probability) / shards: by the union bound over
    the shards (Boole's inequality) the merged top k then misses nothing with at least `probability`. Probability 1
    gives k itself. The tail is summed from the exact probabilities (Feller, An Introduction to Probability Theory, vol.
    1, ch. VI), not approximated.
    """
    if probability >= 1 or shards <= 1 or share >= 1 or k <= 1:
        return k
    i = np.arange(k + 1)
    chosen = np.array([math.lgamma(k + 1) - math.lgamma(n + 1) - math.lgamma(k - n + 1) for n in range(k + 1)])
    weights = np.exp(chosen + i * math.log(share) + (k - i) * math.log1p(-share))
    tail = np.cumsum(weights[::-1])[::-1]  # tail[c] = P[X >= c]
    enough = np.flatnonzero(np.append(tail[1:], 0.0) <= (1 - probability) / shards)
    return max(1, int(enough[0]))
