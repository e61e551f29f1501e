"""Everything wrong that a caller can send: what is refused, with which code, naming which field."""

import io
from collections.abc import Iterator
from typing import Any

import endpoints
import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from PIL import Image

from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2
from services.service import find

PIXELS = bytes(28 * 28)
TASKS = ("classifier", "sentiment", "recommender")


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to all three services with real models."""
    folder = tmp_path_factory.mktemp("metrics")
    with (
        endpoints.serving(list(endpoints.real_models()), folder, max_items=8, max_message_bytes=100_000) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        yield opened


def call(channel: grpc.Channel, task: str, body: bytes) -> Any:
    """Sends bytes as they are."""
    service = find(task)
    assert service is not None
    method = channel.unary_unary(f"/{service.descriptor.full_name}/{service.method.name}")
    return service.response.FromString(method(body, timeout=10))


def refused(channel: grpc.Channel, task: str, body: bytes) -> status_pb2.Status:
    """The status that a whole call is refused with."""
    with pytest.raises(grpc.RpcError) as error:
        call(channel, task, body)
    details = endpoints.trailers(error.value).get("grpc-status-details-bin")
    if details is None:
        return status_pb2.Status(code=error.value.code().value[0], message=error.value.details())
    return status_pb2.Status.FromString(details)


def field(status: status_pb2.Status) -> str:
    """The field that a status says is wrong."""
    assert status.code == code_pb2.INVALID_ARGUMENT, status
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].description
    return bad.field_violations[0].field


def raw(shape: list[int], data: bytes = PIXELS) -> classifier_pb2.Image:
    return classifier_pb2.Image(raw=classifier_pb2.RawImage(data=data, shape=shape))


def picture(size: tuple[int, int] = (28, 28), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L", size).save(file, kind)
    return file.getvalue()


def classify(channel: grpc.Channel, *images: classifier_pb2.Image, top_k: int = 0) -> list[Any]:
    request = classifier_pb2.ClassifyRequest(images=images, top_k=top_k)
    return list(call(channel, "classifier", request.SerializeToString()).results)


def analyze(channel: grpc.Channel, *texts: str) -> list[Any]:
    return list(call(channel, "sentiment", sentiment_pb2.AnalyzeRequest(texts=texts).SerializeToString()).results)


def recommend(channel: grpc.Channel, *queries: recommender_pb2.RecommendQuery) -> list[Any]:
    request = recommender_pb2.RecommendRequest(queries=queries)
    return list(call(channel, "recommender", request.SerializeToString()).results)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x7f", b"not a protobuf"])
def test_bytes_that_are_no_protobuf_are_invalid_argument(channel: grpc.Channel, task: str, body: bytes):
    status = refused(channel, task, body)
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert "Error" not in status.message


def test_text_that_is_not_utf8_is_invalid_argument(channel: grpc.Channel):
    assert refused(channel, "sentiment", b"\x0a\x02\xff\xfe").code == code_pb2.INVALID_ARGUMENT
    assert refused(channel, "recommender", b"\x0a\x04\x0a\x02\xff\xfe").code == code_pb2.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("task", "items"), [("classifier", "images"), ("sentiment", "texts"), ("recommender", "queries")]
)
def test_a_call_without_items_is_invalid_argument(channel: grpc.Channel, task: str, items: str):
    assert field(refused(channel, task, b"")) == items


def test_too_many_items_are_invalid_argument(channel: grpc.Channel):
    body = sentiment_pb2.AnalyzeRequest(texts=["a"] * 9).SerializeToString()
    status = refused(channel, "sentiment", body)
    assert field(status) == "texts"
    assert "9" in status.message
    assert "8" in status.message


def test_a_message_over_the_cap_is_resource_exhausted(channel: grpc.Channel):
    body = sentiment_pb2.AnalyzeRequest(texts=["a" * 100_001]).SerializeToString()
    assert refused(channel, "sentiment", body).code == code_pb2.RESOURCE_EXHAUSTED


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/eagerly.v1.Sentiment/Summarize")(b"", timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_empty_text_is_invalid_argument_and_its_neighbours_are_answered(channel: grpc.Channel):
    results = analyze(channel, "good", "", "bad", "  \n")
    assert [result.status.code for result in results] == [0, 3, 0, 3]
    assert [field(results[at].status) for at in (1, 3)] == ["texts[1]", "texts[3]"]
    assert results[0].labels
    assert not results[1].labels


def test_an_overlong_text_is_invalid_argument(channel: grpc.Channel):
    assert field(analyze(channel, "a" * 10_001)[0].status) == "texts[0]"


@pytest.mark.parametrize(
    ("image", "path"),
    [
        (classifier_pb2.Image(), "images[1]"),
        (classifier_pb2.Image(encoded=b""), "images[1].encoded"),
        (classifier_pb2.Image(encoded=b"GIF89a not an image"), "images[1].encoded"),
        (classifier_pb2.Image(encoded=picture()[:40]), "images[1].encoded"),
        (classifier_pb2.Image(encoded=picture(kind="BMP")), "images[1].encoded"),
        (raw([]), "images[1].raw.shape"),
        (raw([784]), "images[1].raw.shape"),
        (raw([1, 28, 28, 1]), "images[1].raw.shape"),
        (raw([28, -28]), "images[1].raw.shape[1]"),
        (raw([0, 28], b""), "images[1].raw.shape[0]"),
        (raw([2**62, 4], b""), "images[1].raw.shape[0]"),
        (raw([28, 28, 2], bytes(28 * 28 * 2)), "images[1].raw.shape[2]"),
        (raw([28, 27]), "images[1].raw.data"),
        (raw([65_535, 65_535]), "images[1].raw.data"),
        (raw([8, 8], bytes(64)), "images[1].raw.shape"),
        (raw([28, 28, 3], bytes(28 * 28 * 3)), "images[1].raw.shape"),
    ],
)
def test_a_bad_image_is_invalid_argument_and_its_neighbours_are_answered(
    channel: grpc.Channel, image: classifier_pb2.Image, path: str
):
    results = classify(channel, raw([28, 28]), image, raw([28, 28, 1]))
    assert [result.status.code for result in results] == [0, 3, 0]
    assert field(results[1].status) == path
    assert not results[1].labels


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_another_size_is_made_to_fit(channel: grpc.Channel, kind: str):
    assert classify(channel, classifier_pb2.Image(encoded=picture((60, 40), kind)))[0].status.code == 0


def test_top_k_counts_the_labels(channel: grpc.Channel):
    counts = [len(classify(channel, raw([28, 28]), top_k=top_k)[0].labels) for top_k in (0, 1, 5, 10, 1000)]
    assert counts == [3, 1, 5, 10, 10]


def test_a_negative_top_k_is_invalid_argument(channel: grpc.Channel):
    body = classifier_pb2.ClassifyRequest(images=[raw([28, 28])], top_k=-1).SerializeToString()
    assert field(refused(channel, "classifier", body)) == "top_k"


@pytest.mark.parametrize("k", [0, -1, 1_000_000])
def test_a_k_of_nothing_or_beyond_the_catalogue_is_invalid_argument(channel: grpc.Channel, k: int):
    known = endpoints.real_models()[2].model.catalogue.user_ids[0]
    results = recommend(channel, recommender_pb2.RecommendQuery(user_id=known, k=k))
    assert field(results[0].status) == "queries[0].k"


def test_an_unknown_user_without_history_is_not_found(channel: grpc.Channel):
    known = endpoints.real_models()[2].model.catalogue.user_ids[0]
    stranger = recommender_pb2.RecommendQuery(user_id="nobody", k=5)
    results = recommend(channel, stranger, recommender_pb2.RecommendQuery(user_id=known, k=5))
    assert [result.status.code for result in results] == [code_pb2.NOT_FOUND, 0]
    assert "queries[0].user_id" in results[0].status.message
    assert "'nobody'" in results[0].status.message
    assert len(results[1].items) == 5


def test_a_stranger_is_served_from_the_items_of_the_request(channel: grpc.Channel):
    liked = endpoints.real_models()[2].model.catalogue.item_ids[:3]
    results = recommend(channel, recommender_pb2.RecommendQuery(user_id="nobody", item_ids=liked, k=5))
    assert results[0].status.code == 0
    assert len(results[0].items) == 5
    assert not {item.item_id for item in results[0].items} & set(liked)


def test_an_unknown_item_is_not_found(channel: grpc.Channel):
    results = recommend(channel, recommender_pb2.RecommendQuery(item_ids=["no such book"], k=5))
    assert results[0].status.code == code_pb2.NOT_FOUND
    assert "queries[0].item_ids" in results[0].status.message


def test_a_query_about_nobody_is_invalid_argument(channel: grpc.Channel):
    assert field(recommend(channel, recommender_pb2.RecommendQuery(k=5))[0].status) == "queries[0].user_id"


def test_too_many_item_ids_are_invalid_argument(channel: grpc.Channel):
    results = recommend(channel, recommender_pb2.RecommendQuery(item_ids=["1"] * 1001, k=5))
    assert field(results[0].status) == "queries[0].item_ids"
