from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnalyzeRequest(_message.Message):
    __slots__ = ("texts", "min_confidence")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    min_confidence: float
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., min_confidence: _Optional[float] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AnalyzeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[AnalyzeResult, _Mapping]]] = ...) -> None: ...

class AnalyzeResult(_message.Message):
    __slots__ = ("status", "labels", "abstained")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    labels: _containers.RepeatedCompositeFieldContainer[AnalyzeLabel]
    abstained: bool
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., labels: _Optional[_Iterable[_Union[AnalyzeLabel, _Mapping]]] = ..., abstained: _Optional[bool] = ...) -> None: ...

class AnalyzeLabel(_message.Message):
    __slots__ = ("label", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...
