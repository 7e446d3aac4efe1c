"""The Python client of a retrieval server: typed answers, a deadline on every call, bounded retries.

Only UNAVAILABLE is tried again, by gRPC itself. Errors come back as the classes of `retrieval.errors` with the server's
own sentence. Knows the wire types only, nothing of the server.

    with RetrievalClient("localhost:8980") as client:
        for candidate in client.search("red dress", k=10, attributes=["title"]).candidates[0]:
            print(candidate.id, candidate.score, candidate.attributes["title"])
"""

from retrieval.client.answers import (
    Candidate,
    Effort,
    Entity,
    Explanation,
    Ranking,
    ScoreResult,
    SearchResult,
    ShardExplanation,
    Source,
    Timings,
    Vector,
)
from retrieval.client.connection import RetrievalClient
from retrieval.client.filters import (
    Crowding,
    Filter,
    all_of,
    any_of,
    between,
    equal,
    filter_from_json,
    is_in,
    negated,
)
from retrieval.client.tls import Tls

__all__ = [
    "Candidate",
    "Crowding",
    "Effort",
    "Entity",
    "Explanation",
    "Filter",
    "Ranking",
    "RetrievalClient",
    "ScoreResult",
    "SearchResult",
    "ShardExplanation",
    "Source",
    "Timings",
    "Tls",
    "Vector",
    "all_of",
    "any_of",
    "between",
    "equal",
    "filter_from_json",
    "is_in",
    "negated",
]
