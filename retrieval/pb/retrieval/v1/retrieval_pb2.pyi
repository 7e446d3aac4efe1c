from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERACTIVE: _ClassVar[Priority]
    BATCH: _ClassVar[Priority]

class Grouping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGED: _ClassVar[Grouping]
    BY_ENTITY_TYPE: _ClassVar[Grouping]
INTERACTIVE: Priority
BATCH: Priority
MERGED: Grouping
BY_ENTITY_TYPE: Grouping

class Vector(_message.Message):
    __slots__ = ("values", "space_id")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    space_id: str
    def __init__(self, values: _Optional[_Iterable[float]] = ..., space_id: _Optional[str] = ...) -> None: ...

class EntityRef(_message.Message):
    __slots__ = ("entity_type", "string_id", "int64_id")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    STRING_ID_FIELD_NUMBER: _ClassVar[int]
    INT64_ID_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    string_id: str
    int64_id: int
    def __init__(self, entity_type: _Optional[str] = ..., string_id: _Optional[str] = ..., int64_id: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("text", "vector", "entity")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    vector: Vector
    entity: EntityRef
    def __init__(self, text: _Optional[str] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., entity: _Optional[_Union[EntityRef, _Mapping]] = ...) -> None: ...

class Effort(_message.Message):
    __slots__ = ("ef", "nprobe", "rescore")
    EF_FIELD_NUMBER: _ClassVar[int]
    NPROBE_FIELD_NUMBER: _ClassVar[int]
    RESCORE_FIELD_NUMBER: _ClassVar[int]
    ef: int
    nprobe: int
    rescore: int
    def __init__(self, ef: _Optional[int] = ..., nprobe: _Optional[int] = ..., rescore: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("equal", "range", "all_of", "any_of", "negated")
    EQUAL_FIELD_NUMBER: _ClassVar[int]
    IN_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NEGATED_FIELD_NUMBER: _ClassVar[int]
    equal: Equal
    range: Range
    all_of: FilterList
    any_of: FilterList
    negated: Filter
    def __init__(self, equal: _Optional[_Union[Equal, _Mapping]] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., all_of: _Optional[_Union[FilterList, _Mapping]] = ..., any_of: _Optional[_Union[FilterList, _Mapping]] = ..., negated: _Optional[_Union[Filter, _Mapping]] = ..., **kwargs) -> None: ...

class FilterList(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("string_value", "int_value", "float_value", "bool_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int_value: int
    float_value: float
    bool_value: bool
    def __init__(self, string_value: _Optional[str] = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ..., bool_value: _Optional[bool] = ...) -> None: ...

class Equal(_message.Message):
    __slots__ = ("column", "value")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    column: str
    value: Value
    def __init__(self, column: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class In(_message.Message):
    __slots__ = ("column", "values")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    column: str
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, column: _Optional[str] = ..., values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("column", "at_least", "above", "at_most", "below")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    column: str
    at_least: Value
    above: Value
    at_most: Value
    below: Value
    def __init__(self, column: _Optional[str] = ..., at_least: _Optional[_Union[Value, _Mapping]] = ..., above: _Optional[_Union[Value, _Mapping]] = ..., at_most: _Optional[_Union[Value, _Mapping]] = ..., below: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class Crowding(_message.Message):
    __slots__ = ("column", "at_most")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    column: str
    at_most: int
    def __init__(self, column: _Optional[str] = ..., at_most: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("query", "entity_types", "k", "effort", "grouping", "attributes", "minimum_coverage", "filter", "min_recall", "crowding", "priority")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    GROUPING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_RECALL_FIELD_NUMBER: _ClassVar[int]
    CROWDING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    query: Query
    entity_types: _containers.RepeatedScalarFieldContainer[str]
    k: int
    effort: Effort
    grouping: Grouping
    attributes: _containers.RepeatedScalarFieldContainer[str]
    minimum_coverage: float
    filter: Filter
    min_recall: float
    crowding: Crowding
    priority: Priority
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., entity_types: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., grouping: _Optional[_Union[Grouping, str]] = ..., attributes: _Optional[_Iterable[str]] = ..., minimum_coverage: _Optional[float] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., min_recall: _Optional[float] = ..., crowding: _Optional[_Union[Crowding, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("queries", "entity_types", "k", "effort", "grouping", "attributes", "minimum_coverage", "filter", "min_recall", "crowding", "priority")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    GROUPING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_RECALL_FIELD_NUMBER: _ClassVar[int]
    CROWDING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    entity_types: _containers.RepeatedScalarFieldContainer[str]
    k: int
    effort: Effort
    grouping: Grouping
    attributes: _containers.RepeatedScalarFieldContainer[str]
    minimum_coverage: float
    filter: Filter
    min_recall: float
    crowding: Crowding
    priority: Priority
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., entity_types: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., grouping: _Optional[_Union[Grouping, str]] = ..., attributes: _Optional[_Iterable[str]] = ..., minimum_coverage: _Optional[float] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., min_recall: _Optional[float] = ..., crowding: _Optional[_Union[Crowding, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("name", "json_values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    JSON_VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    json_values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., json_values: _Optional[_Iterable[str]] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("entity_type", "int64_ids", "string_ids", "scores", "source_index", "attributes")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    int64_ids: _containers.RepeatedScalarFieldContainer[int]
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    source_index: _containers.RepeatedScalarFieldContainer[int]
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    def __init__(self, entity_type: _Optional[str] = ..., int64_ids: _Optional[_Iterable[int]] = ..., string_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., source_index: _Optional[_Iterable[int]] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("entity_type", "generation", "space_id", "coverage", "effort", "recall_at_10", "recall_at_100", "degraded", "rows", "matches", "gave_way", "expected_recall")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_100_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    GAVE_WAY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_RECALL_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    generation: str
    space_id: str
    coverage: float
    effort: Effort
    recall_at_10: float
    recall_at_100: float
    degraded: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    matches: int
    gave_way: str
    expected_recall: float
    def __init__(self, entity_type: _Optional[str] = ..., generation: _Optional[str] = ..., space_id: _Optional[str] = ..., coverage: _Optional[float] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., recall_at_10: _Optional[float] = ..., recall_at_100: _Optional[float] = ..., degraded: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ..., matches: _Optional[int] = ..., gave_way: _Optional[str] = ..., expected_recall: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("encode_ns", "search_ns", "merge_ns", "total_ns")
    ENCODE_NS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_NS_FIELD_NUMBER: _ClassVar[int]
    MERGE_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    encode_ns: int
    search_ns: int
    merge_ns: int
    total_ns: int
    def __init__(self, encode_ns: _Optional[int] = ..., search_ns: _Optional[int] = ..., merge_ns: _Optional[int] = ..., total_ns: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("candidates", "sources", "query_space_id", "timings")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    QUERY_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidates]
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    query_space_id: str
    timings: Timings
    def __init__(self, candidates: _Optional[_Iterable[_Union[Candidates, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., query_space_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[SearchResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[SearchResponse, _Mapping]]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("vectors",)
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[Vector]
    def __init__(self, vectors: _Optional[_Iterable[_Union[Vector, _Mapping]]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("query", "entity_type", "int64_ids", "string_ids")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    query: Query
    entity_type: str
    int64_ids: _containers.RepeatedScalarFieldContainer[int]
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., entity_type: _Optional[str] = ..., int64_ids: _Optional[_Iterable[int]] = ..., string_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "found", "source", "query_space_id", "timings")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    QUERY_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    found: _containers.RepeatedScalarFieldContainer[bool]
    source: Source
    query_space_id: str
    timings: Timings
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., found: _Optional[_Iterable[bool]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., query_space_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("query", "entity", "k", "effort", "filter", "min_recall", "crowding")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_RECALL_FIELD_NUMBER: _ClassVar[int]
    CROWDING_FIELD_NUMBER: _ClassVar[int]
    query: Query
    entity: EntityRef
    k: int
    effort: Effort
    filter: Filter
    min_recall: float
    crowding: Crowding
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., entity: _Optional[_Union[EntityRef, _Mapping]] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., min_recall: _Optional[float] = ..., crowding: _Optional[_Union[Crowding, _Mapping]] = ...) -> None: ...

class ShardExplanation(_message.Message):
    __slots__ = ("shard", "held", "allowed", "score", "rank", "returned", "list_rank", "nprobe", "approximate_rank", "pool", "shard_k", "row")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    LIST_RANK_FIELD_NUMBER: _ClassVar[int]
    NPROBE_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_RANK_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    SHARD_K_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    shard: str
    held: bool
    allowed: bool
    score: float
    rank: int
    returned: bool
    list_rank: int
    nprobe: int
    approximate_rank: int
    pool: int
    shard_k: int
    row: int
    def __init__(self, shard: _Optional[str] = ..., held: _Optional[bool] = ..., allowed: _Optional[bool] = ..., score: _Optional[float] = ..., rank: _Optional[int] = ..., returned: _Optional[bool] = ..., list_rank: _Optional[int] = ..., nprobe: _Optional[int] = ..., approximate_rank: _Optional[int] = ..., pool: _Optional[int] = ..., shard_k: _Optional[int] = ..., row: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("verdict", "reason", "score", "exact_rank", "rank", "shard", "source", "query_space_id")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXACT_RANK_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    QUERY_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    reason: str
    score: float
    exact_rank: int
    rank: int
    shard: ShardExplanation
    source: Source
    query_space_id: str
    def __init__(self, verdict: _Optional[str] = ..., reason: _Optional[str] = ..., score: _Optional[float] = ..., exact_rank: _Optional[int] = ..., rank: _Optional[int] = ..., shard: _Optional[_Union[ShardExplanation, _Mapping]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., query_space_id: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardDescription(_message.Message):
    __slots__ = ("name", "kind", "rows", "build_params_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BUILD_PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    rows: int
    build_params_json: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., rows: _Optional[int] = ..., build_params_json: _Optional[str] = ...) -> None: ...

class LiveRecall(_message.Message):
    __slots__ = ("entity_type", "effort_json", "filter_band", "answers", "k", "recall", "low", "high")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    EFFORT_JSON_FIELD_NUMBER: _ClassVar[int]
    FILTER_BAND_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    effort_json: str
    filter_band: str
    answers: int
    k: int
    recall: float
    low: float
    high: float
    def __init__(self, entity_type: _Optional[str] = ..., effort_json: _Optional[str] = ..., filter_band: _Optional[str] = ..., answers: _Optional[int] = ..., k: _Optional[int] = ..., recall: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class LeafState(_message.Message):
    __slots__ = ("target", "state", "shards", "last_error")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    target: str
    state: str
    shards: _containers.RepeatedScalarFieldContainer[str]
    last_error: str
    def __init__(self, target: _Optional[str] = ..., state: _Optional[str] = ..., shards: _Optional[_Iterable[str]] = ..., last_error: _Optional[str] = ...) -> None: ...

class FreshEntity(_message.Message):
    __slots__ = ("string_id", "int64_id", "values", "attributes_json")
    STRING_ID_FIELD_NUMBER: _ClassVar[int]
    INT64_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_JSON_FIELD_NUMBER: _ClassVar[int]
    string_id: str
    int64_id: int
    values: _containers.RepeatedScalarFieldContainer[float]
    attributes_json: str
    def __init__(self, string_id: _Optional[str] = ..., int64_id: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ..., attributes_json: _Optional[str] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("entity_type", "space_id", "entities")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    space_id: str
    entities: _containers.RepeatedCompositeFieldContainer[FreshEntity]
    def __init__(self, entity_type: _Optional[str] = ..., space_id: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[FreshEntity, _Mapping]]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("entity_type", "string_ids", "int64_ids")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    int64_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, entity_type: _Optional[str] = ..., string_ids: _Optional[_Iterable[str]] = ..., int64_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("position", "entities")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    position: int
    entities: int
    def __init__(self, position: _Optional[int] = ..., entities: _Optional[int] = ...) -> None: ...

class DeltaState(_message.Message):
    __slots__ = ("entity_type", "rows", "hidden", "position", "folded", "trouble", "oldest_age_s")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_S_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    rows: int
    hidden: int
    position: int
    folded: int
    trouble: str
    oldest_age_s: float
    def __init__(self, entity_type: _Optional[str] = ..., rows: _Optional[int] = ..., hidden: _Optional[int] = ..., position: _Optional[int] = ..., folded: _Optional[int] = ..., trouble: _Optional[str] = ..., oldest_age_s: _Optional[float] = ...) -> None: ...

class FollowState(_message.Message):
    __slots__ = ("entity_type", "generation", "published", "previous", "quarantined", "canary_recall", "alarm", "trouble", "swaps", "rollbacks")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    CANARY_RECALL_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    SWAPS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    generation: str
    published: str
    previous: str
    quarantined: _containers.RepeatedScalarFieldContainer[str]
    canary_recall: float
    alarm: str
    trouble: str
    swaps: int
    rollbacks: int
    def __init__(self, entity_type: _Optional[str] = ..., generation: _Optional[str] = ..., published: _Optional[str] = ..., previous: _Optional[str] = ..., quarantined: _Optional[_Iterable[str]] = ..., canary_recall: _Optional[float] = ..., alarm: _Optional[str] = ..., trouble: _Optional[str] = ..., swaps: _Optional[int] = ..., rollbacks: _Optional[int] = ...) -> None: ...

class FrontierPoint(_message.Message):
    __slots__ = ("params_json", "recall_at_10", "recall_at_100", "p50_ms", "p95_ms", "filter_band")
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_100_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P95_MS_FIELD_NUMBER: _ClassVar[int]
    FILTER_BAND_FIELD_NUMBER: _ClassVar[int]
    params_json: str
    recall_at_10: float
    recall_at_100: float
    p50_ms: float
    p95_ms: float
    filter_band: float
    def __init__(self, params_json: _Optional[str] = ..., recall_at_10: _Optional[float] = ..., recall_at_100: _Optional[float] = ..., p50_ms: _Optional[float] = ..., p95_ms: _Optional[float] = ..., filter_band: _Optional[float] = ...) -> None: ...

class GenerationDescription(_message.Message):
    __slots__ = ("entity_type", "generation", "space_id", "metric", "d", "id_type", "rows", "shards", "frontier", "attributes", "refused")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    D_FIELD_NUMBER: _ClassVar[int]
    ID_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    generation: str
    space_id: str
    metric: str
    d: int
    id_type: str
    rows: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardDescription]
    frontier: _containers.RepeatedCompositeFieldContainer[FrontierPoint]
    attributes: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entity_type: _Optional[str] = ..., generation: _Optional[str] = ..., space_id: _Optional[str] = ..., metric: _Optional[str] = ..., d: _Optional[int] = ..., id_type: _Optional[str] = ..., rows: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardDescription, _Mapping]]] = ..., frontier: _Optional[_Iterable[_Union[FrontierPoint, _Mapping]]] = ..., attributes: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_k", "max_text_characters", "max_batch", "max_message_bytes", "max_candidates")
    MAX_K_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    max_k: int
    max_text_characters: int
    max_batch: int
    max_message_bytes: int
    max_candidates: int
    def __init__(self, max_k: _Optional[int] = ..., max_text_characters: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_candidates: _Optional[int] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("version", "query_space_id", "compatible_space_ids", "generations", "limits", "live_recall", "leaves", "pressure", "following", "delta")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUERY_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_SPACE_IDS_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LIVE_RECALL_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    version: str
    query_space_id: str
    compatible_space_ids: _containers.RepeatedScalarFieldContainer[str]
    generations: _containers.RepeatedCompositeFieldContainer[GenerationDescription]
    limits: Limits
    live_recall: _containers.RepeatedCompositeFieldContainer[LiveRecall]
    leaves: _containers.RepeatedCompositeFieldContainer[LeafState]
    pressure: str
    following: _containers.RepeatedCompositeFieldContainer[FollowState]
    delta: _containers.RepeatedCompositeFieldContainer[DeltaState]
    def __init__(self, version: _Optional[str] = ..., query_space_id: _Optional[str] = ..., compatible_space_ids: _Optional[_Iterable[str]] = ..., generations: _Optional[_Iterable[_Union[GenerationDescription, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., live_recall: _Optional[_Iterable[_Union[LiveRecall, _Mapping]]] = ..., leaves: _Optional[_Iterable[_Union[LeafState, _Mapping]]] = ..., pressure: _Optional[str] = ..., following: _Optional[_Iterable[_Union[FollowState, _Mapping]]] = ..., delta: _Optional[_Iterable[_Union[DeltaState, _Mapping]]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("entity_type", "generation", "shards")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    generation: str
    shards: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entity_type: _Optional[str] = ..., generation: _Optional[str] = ..., shards: _Optional[_Iterable[str]] = ...) -> None: ...

class SearchShardsRequest(_message.Message):
    __slots__ = ("part", "vectors", "queries", "space_id", "k", "effort", "filter", "crowding_column", "priority", "crowding_at_most")
    PART_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CROWDING_COLUMN_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CROWDING_AT_MOST_FIELD_NUMBER: _ClassVar[int]
    part: Part
    vectors: bytes
    queries: int
    space_id: str
    k: int
    effort: Effort
    filter: Filter
    crowding_column: str
    priority: Priority
    crowding_at_most: int
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., vectors: _Optional[bytes] = ..., queries: _Optional[int] = ..., space_id: _Optional[str] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., crowding_column: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., crowding_at_most: _Optional[int] = ...) -> None: ...

class ShardHits(_message.Message):
    __slots__ = ("shard", "int64_ids", "string_ids", "rows", "scores", "bounds", "matches", "crowd", "failure")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    CROWD_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    shard: str
    int64_ids: bytes
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    rows: bytes
    scores: bytes
    bounds: bytes
    matches: int
    crowd: bytes
    failure: str
    def __init__(self, shard: _Optional[str] = ..., int64_ids: _Optional[bytes] = ..., string_ids: _Optional[_Iterable[str]] = ..., rows: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., bounds: _Optional[bytes] = ..., matches: _Optional[int] = ..., crowd: _Optional[bytes] = ..., failure: _Optional[str] = ...) -> None: ...

class SearchShardsResponse(_message.Message):
    __slots__ = ("hits",)
    HITS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[ShardHits]
    def __init__(self, hits: _Optional[_Iterable[_Union[ShardHits, _Mapping]]] = ...) -> None: ...

class ScoreShardsRequest(_message.Message):
    __slots__ = ("part", "vectors", "queries", "space_id", "int64_ids", "string_ids")
    PART_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    vectors: bytes
    queries: int
    space_id: str
    int64_ids: bytes
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., vectors: _Optional[bytes] = ..., queries: _Optional[int] = ..., space_id: _Optional[str] = ..., int64_ids: _Optional[bytes] = ..., string_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ShardScores(_message.Message):
    __slots__ = ("shard", "scores", "found", "failure")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    shard: str
    scores: bytes
    found: bytes
    failure: str
    def __init__(self, shard: _Optional[str] = ..., scores: _Optional[bytes] = ..., found: _Optional[bytes] = ..., failure: _Optional[str] = ...) -> None: ...

class ScoreShardsResponse(_message.Message):
    __slots__ = ("scores",)
    SCORES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[ShardScores]
    def __init__(self, scores: _Optional[_Iterable[_Union[ShardScores, _Mapping]]] = ...) -> None: ...

class FetchVectorsRequest(_message.Message):
    __slots__ = ("part", "int64_ids", "string_ids")
    PART_FIELD_NUMBER: _ClassVar[int]
    INT64_IDS_FIELD_NUMBER: _ClassVar[int]
    STRING_IDS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    int64_ids: bytes
    string_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., int64_ids: _Optional[bytes] = ..., string_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ShardVectors(_message.Message):
    __slots__ = ("shard", "vectors", "found", "failure")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    shard: str
    vectors: bytes
    found: bytes
    failure: str
    def __init__(self, shard: _Optional[str] = ..., vectors: _Optional[bytes] = ..., found: _Optional[bytes] = ..., failure: _Optional[str] = ...) -> None: ...

class FetchVectorsResponse(_message.Message):
    __slots__ = ("vectors",)
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[ShardVectors]
    def __init__(self, vectors: _Optional[_Iterable[_Union[ShardVectors, _Mapping]]] = ...) -> None: ...

class FetchAttributesRequest(_message.Message):
    __slots__ = ("part", "rows", "columns")
    PART_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    rows: bytes
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., rows: _Optional[bytes] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class FetchAttributesResponse(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: bytes
    def __init__(self, table: _Optional[bytes] = ...) -> None: ...

class ExplainShardsRequest(_message.Message):
    __slots__ = ("part", "vector", "space_id", "int64_id", "string_id", "k", "effort", "filter", "score", "crowding")
    PART_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INT64_ID_FIELD_NUMBER: _ClassVar[int]
    STRING_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CROWDING_FIELD_NUMBER: _ClassVar[int]
    part: Part
    vector: bytes
    space_id: str
    int64_id: bytes
    string_id: str
    k: int
    effort: Effort
    filter: Filter
    score: float
    crowding: Crowding
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., vector: _Optional[bytes] = ..., space_id: _Optional[str] = ..., int64_id: _Optional[bytes] = ..., string_id: _Optional[str] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., score: _Optional[float] = ..., crowding: _Optional[_Union[Crowding, _Mapping]] = ...) -> None: ...

class ExplainShardsResponse(_message.Message):
    __slots__ = ("explanations",)
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[ShardExplanation]
    def __init__(self, explanations: _Optional[_Iterable[_Union[ShardExplanation, _Mapping]]] = ...) -> None: ...

class DescribeShardsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServedPart(_message.Message):
    __slots__ = ("part", "manifest_json", "columns", "schema")
    PART_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    part: Part
    manifest_json: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    schema: bytes
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., manifest_json: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ..., schema: _Optional[bytes] = ...) -> None: ...

class DescribeShardsResponse(_message.Message):
    __slots__ = ("version", "parts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    parts: _containers.RepeatedCompositeFieldContainer[ServedPart]
    def __init__(self, version: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ServedPart, _Mapping]]] = ...) -> None: ...
