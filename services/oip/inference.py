"""The Open Inference Protocol beside the typed services: every model of the endpoint, over the same slots."""

import functools
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from google.rpc import code_pb2

from pipelines.schema import Tensor
from services import errors, rpc, status, visits
from services.door import Answer, Context, Door, Keepers
from services.models import Loaded
from services.oip import open_inference_pb2 as pb
from services.oip.reading import arrays, place, shortened
from services.oip.writing import CLASSIFICATION, response, wanted
from services.options import Options
from services.reasons import Reason
from services.slots import Generation, Slot

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
PLATFORM = "pytorch_eager"
LABEL = "open_inference"
"""What metrics call the service of the methods that no model answers."""
UNKNOWN = "unknown"
"""What metrics call the service of inference for models that are not here: no name of a caller's becomes a label."""
MOST_REFUSAL_BYTES = 6_500
"""What a refusal may take up among headers, of which a caller takes 8 KB with everything else that is there."""
MOST_VIOLATIONS = 100
"""Bad items that a refusal may name; more never find room."""

Plain = Callable[[Any], Any]


class OpenInference:
    """Answers the methods of GRPCInferenceService; all methods are for the event loop's thread."""

    def __init__(self, slots: dict[str, Slot], options: Options, keepers: Keepers) -> None:
        """Puts a door before each method, and before inference one for each model."""
        self.is_draining = False
        self.away: set[str] = set()
        """Models that are computed in other processes, which are not there now."""
        self._slots = slots
        self._most_items = options.max_items
        self._version = _installed_version()
        doors = functools.partial(_door, keepers=keepers)
        self._models = {name: doors("ModelInfer", name, functools.partial(self._infer, name)) for name in slots}
        self._unknown = doors("ModelInfer", UNKNOWN, functools.partial(self._infer, UNKNOWN))
        self._doors = {
            method: doors(method, LABEL, _answering(kind, answer))
            for method, kind, answer in (
                ("ServerLive", pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
                ("ServerReady", pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self.ready)),
                ("ModelReady", pb.ModelReadyRequest, self._model_ready),
                ("ServerMetadata", pb.ServerMetadataRequest, self._server_metadata),
                ("ModelMetadata", pb.ModelMetadataRequest, self._model_metadata),
            )
        }

    @property
    def ready(self) -> bool:
        """Whether the server takes calls and goes on doing so, and any model can answer."""
        return not self.is_draining and len(self.away) < len(self._slots)

    def answers(self) -> dict[str, Answer]:
        """Gives what answers each method, by its path."""
        answers: dict[str, Answer] = {method: door.answer for method, door in self._doors.items()}
        answers["ModelInfer"] = self._enter
        return {f"/{SERVICE}/{method}": answer for method, answer in answers.items()}

    async def _enter(self, body: bytes, context: Context) -> bytes:
        """Leads an inference to the door of its model, by the fields that it shares with ModelReadyRequest."""
        try:
            door = self._models.get(pb.ModelReadyRequest.FromString(body).name, self._unknown)
        except Exception:  # whatever it is, the door's own work finds it again, and says so
            door = self._unknown
        return await door.answer(body, context)

    async def _infer(self, label: str, body: bytes, deadline: float, context: Context) -> bytes:
        """Checks a batch against its model's schema, predicts it and writes the reply."""
        request: pb.ModelInferRequest = rpc.parse(pb.ModelInferRequest, body)
        slot, generation = self._find(request.model_name, request.model_version, "model_name", "model_version")
        if not request.model_version:
            generation = slot.pick(context)
        context.set_trailing_metadata(generation.trailers)
        conversion = generation.loaded.conversion
        tensors = arrays(request, conversion.schema, self._most_items)
        outputs = wanted(request, conversion.schema)
        inputs = conversion.from_tensors(tensors)
        visits.count_items(len(inputs))
        answers = inputs
        service = generation.loaded.service
        if not any(isinstance(one, Exception) for one in inputs):
            if service is not None and service.bound is not None:
                service.bound(inputs)
            answers = await generation.submit(inputs, deadline)
        bad = [(at, answer) for at, answer in enumerate(answers) if isinstance(answer, Exception)]
        if bad:
            raise _refusal(bad, inputs, generation.loaded, request)
        reply = pb.ModelInferResponse(
            model_name=generation.loaded.name, model_version=str(generation.loaded.version), id=request.id
        )
        written = response(reply, outputs, conversion.to_tensors(answers), bool(request.raw_input_contents))
        self._models.get(label, self._unknown).figures.add_items({code_pb2.OK: len(inputs)})
        return written

    def _find(self, name: str, wanted_version: str, name_field: str, version_field: str) -> tuple[Slot, Generation]:
        """Finds the generation that answers for a model; raises NotFound for a model or a version that is not here."""
        slot = self._slots.get(name)
        if slot is None:
            problem = f"there is no model {shortened(name)} here; there are: {', '.join(sorted(self._slots))}"
            raise errors.NotFound(problem, name_field, Reason.UNKNOWN_MODEL)
        generation = slot.named(wanted_version)
        if generation is None:
            served, *tried = slot.versions
            also = f", and version {tried[0]} is on trial" if tried else ""
            problem = (
                f"there is no version {shortened(wanted_version)} of {name} here; version {served} is served{also}"
            )
            raise errors.NotFound(problem, version_field, Reason.UNKNOWN_MODEL)
        return slot, generation

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._find(request.name, request.version, "name", "version")
        except errors.NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self.ready and request.name not in self.away)

    def _server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="eagerly", version=self._version, extensions=[CLASSIFICATION])

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        slot, generation = self._find(request.name, request.version, "name", "version")
        loaded = generation.loaded
        schema = loaded.conversion.schema
        return pb.ModelMetadataResponse(
            name=loaded.name,
            versions=slot.versions,
            platform=PLATFORM,
            inputs=[_described(tensor) for tensor in schema.inputs],
            outputs=[_described(tensor) for tensor in schema.outputs],
        )


def _door(method: str, label: str, work: Callable[[bytes, float, Context], Awaitable[bytes]], keepers: Keepers) -> Door:
    return Door(f"/{SERVICE}/{method}", (label, method), work, keepers)


def _answering(kind: Any, answer: Plain) -> Callable[[bytes, float, Context], Awaitable[bytes]]:
    """Makes the work of a method that no model is asked for."""

    async def work(body: bytes, deadline: float, context: Context) -> bytes:
        return answer(rpc.parse(kind, body)).SerializeToString()

    return work


def _described(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _refusal(
    bad: list[tuple[int, Any]], inputs: list[Any], loaded: Loaded, request: pb.ModelInferRequest
) -> errors.FieldError:
    """Makes one error of those of a call's items, each with a field of its own, as many as headers have room for.

    What is wrong comes before what is unknown, so that the code is NOT_FOUND only where everything is.
    """
    named = sorted(bad, key=lambda one: isinstance(one[1], LookupError))[:MOST_VIOLATIONS]
    error, *others = [_about(item, problem, inputs[item], loaded, request) for item, problem in named]
    if len(bad) > 1:
        error.description = errors.shortened(f"{error.description} (and {len(bad) - 1} more bad items)")
        error.args = (f"{error.field}: {error.description}",)
    error.others = others
    while error.others and _header_bytes(error) >= MOST_REFUSAL_BYTES:
        error.others = error.others[: len(error.others) * 7 // 8]
    return error


def _about(item: int, problem: Any, given: Any, loaded: Loaded, request: pb.ModelInferRequest) -> errors.FieldError:
    """Says what is wrong with one item, for the reason that the model's typed service would give."""
    field, lead = place(request, loaded.conversion.blame(given, problem), item)
    reason = loaded.service.blame(given, problem)[1] if loaded.service else None
    told = errors.of_item(problem, field, reason)
    assert isinstance(told, errors.FieldError)
    if isinstance(told, errors.NotFound):
        return errors.NotFound(lead + told.description, field, told.reason)
    return errors.BadInput(field, lead + told.description, told.reason)


def _header_bytes(error: errors.FieldError) -> float:
    """Gives what a refusal takes up at the most: a character that is not ASCII is sent as three, details in base64."""
    told = status.of(error)
    return 3 * len(told.message.encode()) + told.ByteSize() * 4 / 3


def _installed_version() -> str:
    try:
        return version("eagerly")
    except PackageNotFoundError:
        return ""
