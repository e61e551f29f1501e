"""The way a model is run is chosen by trial, and never changes its answers."""

import copy
import ctypes
import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import endpoints
import psutil
import pytest
import torch
from torch import Tensor, nn

from pipelines import tasks
from services import likeness, metrics, paths, rewrites
from services.options import Options
from services.paths import Way

ROOT = Path(__file__).resolve().parents[2]


class Slow(nn.Module):
    """A network that takes its time."""

    def __init__(self, network: nn.Module, seconds: float) -> None:
        super().__init__()
        self.network, self.seconds = network, seconds

    def forward(self, *inputs: Tensor) -> Tensor:
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            pass
        return self.network(*inputs)


class Slip(Slow):
    """A network whose answers are a little off."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs) + 0.02


class Breaks(Slow):
    """A network that fails on a batch."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs[0]) > 1:
            raise RuntimeError("graph break")
        return self.network(*inputs)


class Scores:
    """A user's own model, whose network is slow as it is written."""

    def __init__(self, seconds: float = 0.005) -> None:
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 3)
        self.network: nn.Module = Slow(self.inner, seconds)

    def examples(self) -> list[list[float]]:
        return [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]]

    @torch.inference_mode()
    def predict(self, inputs: list[list[float]]) -> list[list[float]]:
        return self.network(torch.tensor(inputs)).tolist()


def quick(change: Callable[[nn.Module], nn.Module] = lambda network: network) -> Callable[[Any], nn.Module]:
    return lambda network: change(network.network)


def chosen(way: Way, model: Any = None) -> paths.Choice:
    model = model or Scores()
    return paths.choose(model, (model.examples() * 4)[:8], (way,), budget_s=5)


def test_a_path_that_is_faster_and_answers_the_same_is_taken():
    choice = chosen(Way("quick", quick(), 0.0))
    assert choice.name == "quick"
    assert choice.predict([[1.0, 2.0, 3.0, 4.0]]) == Scores().predict([[1.0, 2.0, 3.0, 4.0]])
    assert "times as fast" in choice.report[0]


def test_of_paths_that_are_as_fast_the_one_that_is_worth_more_under_load_is_taken():
    slow = quick(lambda network: Slow(network, 0.001))
    plain, one_call = Way("plain", slow, 0.0), Way("one-call", slow, 0.0, worth=2.0)
    for ways in ((plain, one_call), (one_call, plain)):
        assert paths.choose(Scores(), Scores().examples(), ways, budget_s=5).name == "one-call"


@pytest.mark.parametrize(
    ("rewrite", "why"),
    [
        (quick(lambda network: Slip(network, 0)), "answers otherwise"),
        (quick(lambda network: Breaks(network, 0)), "failed with RuntimeError"),
        (lambda network: Slow(network, 0.01), "times as fast"),
        (lambda network: network.nothing, "failed with AttributeError"),
        (lambda network: None, "nothing to do"),
    ],
)
def test_a_path_that_answers_otherwise_fails_or_is_slower_is_refused(rewrite: Callable[[Any], Any], why: str):
    choice = chosen(Way("other", rewrite, 0.01))
    assert choice.name == "eager"
    assert why in choice.report[0]


def test_a_difference_within_the_tolerance_is_accepted():
    assert chosen(Way("slip", quick(lambda network: Slip(network, 0)), 0.03)).name == "slip"


def test_a_model_without_a_network_runs_as_it_is_written():
    assert chosen(Way("quick", quick(), 0.0), endpoints.Gate()).name == "eager"


def test_trials_end_when_their_time_is_up():
    model = Scores(seconds=0.05)
    began = time.monotonic()
    ways = (Way("same", copy.copy, 0.0),) * 30
    choice = paths.choose(model, model.examples() * 32, ways, budget_s=0.2, patience_s=0.2)
    assert choice.name == "eager"
    assert "no time to try it" in choice.report[-1]
    assert time.monotonic() - began < 2


def test_a_slow_model_has_the_time_that_its_fewest_rounds_take():
    model = Scores(seconds=0.05)
    choice = paths.choose(model, model.examples() * 32, (Way("same", copy.copy, 0.0),), budget_s=0.1, patience_s=60)
    assert "times as fast" in choice.report[0]


def models() -> list[Any]:
    torch.manual_seed(0)
    parity, line = (tasks.find(str(ROOT / "examples" / name)).model.Model for name in ("parity", "linear_regression"))
    return [*(one.model for one in endpoints.real_models()), parity(16), line(nn.Linear(1, 1))]


NAMES = ["classifier", "sentiment", "recommender", "parity", "line"]
PAIRS = [
    pytest.param(model, way, id=f"{name}-{way.name}")
    for name, model in zip(NAMES, models(), strict=True)
    for way in paths.ways("fast", 0.01)
    if (name, way.name) != ("recommender", "torchscript")
]


def test_a_network_in_python_that_torchscript_does_not_know_is_refused_each_time_and_left_as_it_was():
    model = models()[NAMES.index("recommender")]
    expected = model.predict(model.examples())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            rewrites.scripted(model.network)
    assert chosen(paths.ways("exact", 0.01)[0], model).report == ("torchscript: failed with RuntimeError",)
    assert model.predict(model.examples()) == expected


@pytest.mark.parametrize(("model", "way"), PAIRS)
def test_every_rewrite_answers_as_eager_does_and_leaves_the_model_as_it_was(model: Any, way: Way):
    model.network.eval()
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    formats = [value.stride() for value in model.network.parameters()]
    expected = [model.predict(model.examples()[:1]), model.predict(model.examples() * 4)]
    network = way.rewrite(model.network)
    if network is not None:
        twin = copy.copy(model)
        twin.network = network
        for wanted, inputs in zip(expected, (model.examples()[:1], model.examples() * 4), strict=True):
            assert likeness.same(wanted, twin.predict(inputs), 0.02)
    assert [model.predict(model.examples()[:1]), model.predict(model.examples() * 4)] == expected
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())
    assert [value.stride() for value in model.network.parameters()] == formats


class Halves(nn.Module):
    """A network whose graph depends on its data: it halves until nothing is large, each row of a batch counted in."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, rows_BW: Tensor) -> Tensor:
        steps = 0
        while float(rows_BW.abs().max()) > 1:
            rows_BW = rows_BW / 2
            steps += 1
        if steps % 2 == 1:
            rows_BW = -rows_BW
        return self.inner(rows_BW) + steps


@pytest.mark.filterwarnings("error")
def test_branches_and_loops_that_depend_on_data_go_on_doing_so_when_compiled():
    network = Halves().eval()
    compiled = rewrites.scripted(network)
    assert compiled is not None and compiled.get_parameter("inner.weight") is network.inner.weight
    with torch.inference_mode():
        for scale in (0.5, 1.5, 3.0, 100.0, 0.1, 7.0):
            rows_BW = torch.full((2, 3), scale)
            torch.testing.assert_close(compiled(rows_BW), network(rows_BW))


class Claims(Halves):
    """Says that sizes alone decide what it computes, in vain: so do values."""

    def trials(self) -> list[tuple[Tensor]]:
        return [(torch.full((2, 3), 0.5),), (torch.full((1, 3), 7.0),)]


@pytest.mark.filterwarnings("error")
def test_no_network_is_recorded_that_does_not_say_so_or_says_so_and_computes_something_else():
    assert rewrites.traced(Halves().eval()) is None
    with pytest.raises(ValueError, match="recorded with 2 rows, it answers otherwise for 1"):
        rewrites.traced(Claims().eval())


def test_a_network_that_cannot_be_compiled_runs_as_it_is_written():
    class Odd(Halves):
        def forward(self, rows_BW: Tensor) -> Tensor:
            return super().forward(rows_BW) + len({str(row): None for row in rows_BW})

    model = Scores()
    model.network = nn.Sequential(nn.Linear(4, 3), Odd())
    choice = chosen(paths.ways("exact", 0.01)[0], model)
    assert (choice.name, choice.predict) == ("eager", model.predict)
    assert choice.report[0].startswith("torchscript: failed with ")


def test_compiled_networks_that_are_no_longer_used_leave_the_memory():
    def compile_and_run() -> None:
        compiled = rewrites.scripted(Halves(2000).eval())
        assert compiled is not None
        with torch.inference_mode():
            compiled(torch.zeros(1, 2000))

    def held_bytes() -> int:
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed, more or less of it
        return psutil.Process().memory_info().rss

    compile_and_run()
    before = held_bytes()
    for _ in range(10):
        compile_and_run()
    grown = held_bytes() - before
    assert grown < 4 * 2000 * 2000 * 4, f"{grown:,} bytes more after ten networks of 16,000,000"


def test_batch_norms_are_folded_and_tensors_shared():
    network = endpoints.classifier().network.eval()
    twin = rewrites.packed(network)
    assert twin is not None
    assert [type(module) for module in twin.modules()].count(nn.BatchNorm2d) == 0
    assert twin.get_buffer("mean") is network.mean


def test_packed_convolutions_answer_as_plain_ones_do_whatever_form_their_input_has():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Dropout(),
        nn.ReLU(),
        nn.Conv2d(6, 2, 3, padding="same"),
        nn.ReLU(),
    ).eval()
    twin = rewrites.packed(plain)
    assert twin is not None
    kinds = [type(module) for module in twin.children()]
    assert kinds.count(rewrites.PackedConvolution) == 2 and kinds.count(nn.ReLU) == 2
    image_BCHW = torch.randn(2, 3, 9, 9)
    with torch.inference_mode():
        for one in (image_BCHW, image_BCHW[0], image_BCHW[:0], image_BCHW.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(twin(one), plain(one))


def test_a_batch_norm_that_a_hook_watches_stays():
    def brighten(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 1

    watched = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    watched[1].register_forward_hook(brighten)
    image_B1HW = torch.rand(2, 1, 8, 8)
    twin = rewrites.channels_last(watched)
    assert twin is not None
    torch.testing.assert_close(twin(image_B1HW), watched(image_B1HW))


def test_an_endpoint_shows_its_path_and_a_swap_chooses_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    slow, gate = endpoints.loaded("sentiment", endpoints.Gate()), endpoints.loaded("classifier", endpoints.classifier())
    with endpoints.serving([slow, gate], tmp_path) as endpoint:
        assert metrics.paths(tmp_path)["sentiment"] == ["eager"]
        assert metrics.paths(tmp_path)["classifier"][0] in ("eager", *(way.name for way in paths.ways("fast", 0.01)))
        assert "classifier runs" in caplog.text
        endpoint.run(endpoint.server.slots["classifier"].swap(endpoints.loaded("classifier", endpoints.classifier())))
        assert len(metrics.paths(tmp_path)["classifier"]) == 1
        text = urllib.request.urlopen(endpoint.metrics).read().decode()
        assert 'eagerly_model_path_info{path="eager",service="sentiment"} 1.0' in text


def test_eager_alone_is_run_where_the_flag_says_so(tmp_path: Path):
    with endpoints.serving([endpoints.loaded("classifier", endpoints.classifier())], tmp_path, paths="eager"):
        assert metrics.paths(tmp_path) == {"classifier": ["eager"]}


def test_no_paths_are_known_of_another_machine(tmp_path: Path):
    assert metrics.paths(tmp_path / "elsewhere") == {}


def test_a_tolerance_out_of_range_is_refused():
    with pytest.raises(ValueError, match="--tolerance is 2"):
        Options(tolerance=2)
