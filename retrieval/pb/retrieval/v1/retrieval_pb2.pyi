from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Grouping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGED: _ClassVar[Grouping]
    BY_ENTITY_TYPE: _ClassVar[Grouping]
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

class SearchRequest(_message.Message):
    __slots__ = ("query", "entity_types", "k", "effort", "grouping", "attributes", "minimum_coverage")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    GROUPING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    query: Query
    entity_types: _containers.RepeatedScalarFieldContainer[str]
    k: int
    effort: Effort
    grouping: Grouping
    attributes: _containers.RepeatedScalarFieldContainer[str]
    minimum_coverage: float
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., entity_types: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., grouping: _Optional[_Union[Grouping, str]] = ..., attributes: _Optional[_Iterable[str]] = ..., minimum_coverage: _Optional[float] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("queries", "entity_types", "k", "effort", "grouping", "attributes", "minimum_coverage")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    GROUPING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    entity_types: _containers.RepeatedScalarFieldContainer[str]
    k: int
    effort: Effort
    grouping: Grouping
    attributes: _containers.RepeatedScalarFieldContainer[str]
    minimum_coverage: float
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., entity_types: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., grouping: _Optional[_Union[Grouping, str]] = ..., attributes: _Optional[_Iterable[str]] = ..., minimum_coverage: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("entity_type", "generation", "space_id", "coverage", "effort", "recall_at_10", "recall_at_100", "degraded", "rows")
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_100_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    entity_type: str
    generation: str
    space_id: str
    coverage: float
    effort: Effort
    recall_at_10: float
    recall_at_100: float
    degraded: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    def __init__(self, entity_type: _Optional[str] = ..., generation: _Optional[str] = ..., space_id: _Optional[str] = ..., coverage: _Optional[float] = ..., effort: _Optional[_Union[Effort, _Mapping]] = ..., recall_at_10: _Optional[float] = ..., recall_at_100: _Optional[float] = ..., degraded: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ...) -> None: ...

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

class FrontierPoint(_message.Message):
    __slots__ = ("params_json", "recall_at_10", "recall_at_100", "p50_ms", "p95_ms")
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_100_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P95_MS_FIELD_NUMBER: _ClassVar[int]
    params_json: str
    recall_at_10: float
    recall_at_100: float
    p50_ms: float
    p95_ms: float
    def __init__(self, params_json: _Optional[str] = ..., recall_at_10: _Optional[float] = ..., recall_at_100: _Optional[float] = ..., p50_ms: _Optional[float] = ..., p95_ms: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("version", "query_space_id", "compatible_space_ids", "generations", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUERY_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_SPACE_IDS_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    query_space_id: str
    compatible_space_ids: _containers.RepeatedScalarFieldContainer[str]
    generations: _containers.RepeatedCompositeFieldContainer[GenerationDescription]
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., query_space_id: _Optional[str] = ..., compatible_space_ids: _Optional[_Iterable[str]] = ..., generations: _Optional[_Iterable[_Union[GenerationDescription, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...
