"""What is planted in a network is named, by module, line and example; a run's next step is looked at, not changed."""

import csv
import json
import math
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import planted
import pytest
import training
from training import PARITY

from pipelines import checkpoint, inspection, tasks
from pipelines.inspecting import numerics, rows
from pipelines.inspection import Report, Wish
from pipelines.tasks import Task

QUICK = Wish(ways=(), batches=0, threads=1)
VOID = {"meta", "input"}


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def look(task: Task, out: Path, wish: Wish = QUICK, **flags: object) -> Report:
    return inspection.inspect(task, task.config.Config(**flags), wish, out)


def bad(report: Report) -> list[str]:
    return [finding.sentence for finding in report.findings if finding.level == "bad"]


def everywhere(report: Report, out: Path, *words: str) -> bool:
    """Whether words stand in one sentence of the text, and in the page."""
    told = (out / inspection.TEXT).read_text().splitlines()
    page = Page((out / inspection.PAGE).read_text())
    return any(all(word in line for word in words) for line in told) and all(word in page.text for word in words)


def test_a_nan_of_the_forward_pass_is_named_by_module_operator_line_and_example(tmp_path: Path) -> None:
    task = planted.plant(
        tmp_path, "spoils_points", network="y = self.first(x)\nreturn self.last(self.odd(y * (0.75 - x).sqrt()))"
    )
    report = look(task, tmp_path / "out")
    broken = report.values.forward
    assert broken is not None
    assert broken.origin.line == planted.line_of(task, "(0.75 - x).sqrt()")
    assert (broken.origin.call.module, broken.kind) == ("(network)", "Network")
    assert sorted(broken.examples) == ["training example 3", "training example 4"]
    assert everywhere(report, tmp_path / "out", "forward pass in (network) (Network), call 1", "training examples")


def test_a_module_that_spoils_finite_values_is_named_although_those_after_it_are_spoiled_too(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "takes_logs", "y = x * self.scale\nreturn torch.log(y - y)")
    report = look(task, tmp_path / "out")
    broken = report.values.forward
    assert broken is not None
    assert (broken.origin.call.module, broken.where) == ("odd", "log")
    assert broken.origin.line == planted.line_of(task, "torch.log(y - y)")
    assert broken.infinite_count == broken.count == 15
    assert "forward pass in odd (Odd), call 1: log" in bad(report)[0]


def test_a_nan_of_the_backward_pass_alone_is_named_in_backward_order(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "roots_of_zero", "return x + torch.sqrt(x * self.scale * 0)")
    report = look(task, tmp_path / "out")
    assert report.values.forward is None
    broken = report.values.backward
    assert broken is not None
    assert (broken.origin.call.module, broken.where) == ("odd", "SqrtBackward0")
    assert everywhere(report, tmp_path / "out", "backward pass in odd (Odd), call 1: SqrtBackward0")


def test_infinities_that_mask_are_no_alarm(tmp_path: Path) -> None:
    masked = "y = self.first(x).masked_fill(x > 0.7, float('-inf'))\nreturn self.last(self.odd(y.exp()))"
    report = look(planted.plant(tmp_path, "masks", network=masked), tmp_path / "out")
    assert bad(report) == []
    assert (report.values.forward, report.values.backward) == (None, None)


def test_a_nan_after_a_mask_is_named_and_not_the_mask(tmp_path: Path) -> None:
    code = "y = (x * self.scale).masked_fill(x > x.median(), float('-inf')).exp()\nreturn (y - 1e9).sqrt()"
    task = planted.plant(tmp_path, "masks_and_spoils", code)
    broken = look(task, tmp_path / "out").values.forward
    assert broken is not None
    assert (broken.where, broken.origin.line) == ("sqrt", planted.line_of(task, "(y - 1e9).sqrt()"))


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "bad_weight")
    spoil = "cls()\n        model.network.odd.scale.data.fill_(float('nan'))\n        return model"
    source = (task.folder / "model.py").read_text()
    (task.folder / "model.py").write_text(source.replace("return cls()", f"model = {spoil}"))
    report = look(task, tmp_path / "out")
    assert "the weight odd.scale holds 1 of 1 numbers that are not finite." in bad(report)
    assert report.values.forward is not None
    assert report.values.forward.origin.call.module == "odd"


def test_a_branch_that_data_takes_is_named_by_node_and_by_the_example_that_took_it(tmp_path: Path) -> None:
    branch = "y = self.first(x)\nif bool((x > 0.85).any()):\n    y = self.odd(y)\nreturn self.last(y)"
    task = planted.plant(tmp_path, "branches", network=branch)
    wish = Wish(ways=(), batches=1, threads=1)
    report = look(task, tmp_path / "out", wish, batch_size=3)  # five points: two batches, one of them with point 4
    takers = [batch for batch in report.batches if batch.calls.get("odd")]
    assert len(takers) == 1
    changed = [batch for batch in report.batches if batch.first]
    assert changed == takers or takers == report.batches[:1]
    assert {name for batch in changed for name in batch.blame} == {"training example 4"}
    assert all("odd" in batch.first and "odd" in batch.counts for batch in changed)
    assert "The graph depends on the data, but train.py does not say STATIC_GRAPH = False; DDP needs it." in bad(report)
    assert everywhere(report, tmp_path / "out", "alone, ", "by training example 4.", "MulBackward0 of odd, call 1")


def test_a_loop_as_long_as_the_data_draws_other_graphs_and_says_how_often_it_ran(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('"01"\n"1"\n"110"\n')
    wish = Wish(file=tmp_path / "rows.jsonl", ways=(), batches=1, threads=1)
    report = look(tasks.find(PARITY), tmp_path / "out", wish)
    own, other = report.batches
    assert own.calls["cell"] == 3
    assert f"cell 3 -> {other.calls['cell']} times" in other.counts
    assert bad(report) == []  # the task says that its graph depends on the data
    assert report.facts["examples"] == "rows 1, 2, 3"


@pytest.mark.timeout(280)
def test_numbers_that_depend_on_the_way_of_computing_are_named_by_module(tmp_path: Path) -> None:
    odd = (
        "if torch.is_autocast_enabled('cpu'):\n    x = x * 1.5\n"
        "if torch.compiler.is_compiling():\n    x = x * 1.25\nreturn x * self.scale"
    )
    inner = "y = self.odd(self.first(x))\nif dist.is_initialized():\n    y = y * 2\nreturn self.last(y)"
    task = planted.plant(tmp_path, "depends", odd, inner)
    report = look(task, tmp_path / "out", Wish(batches=0, threads=1))
    firsts = {entry.way: entry.first for entry in report.comparisons}
    assert firsts == {
        "again": "",
        "amp": "odd, call 1",
        "ddp": "(network), call 1, in its own code before it calls last",
        "compile": "odd, call 1",
    }
    worst = {entry.way: max(one.relative for one in entry.modules if one.name == "odd") for entry in report.comparisons}
    assert worst["amp"] == pytest.approx(0.5, abs=0.05)
    assert worst["compile"] == pytest.approx(0.25, abs=0.01)
    assert worst["ddp"] < 1e-5
    assert everywhere(report, tmp_path / "out", "two processes under DDP", "(network), call 1, in its own code")


CELL = """class Cell(nn.GRUCell):
    def forward(self, x, state):
        return super().forward(x, state) * (1.3 if torch.distributed.is_initialized() else 1.0)


class Reader("""


@pytest.mark.parametrize("is_wrong", [True, False], ids=["wrong", "right"])
def test_ranks_that_draw_different_graphs_are_compared_by_what_both_call_and_it_is_said(
    tmp_path: Path, is_wrong: bool
) -> None:
    folder = tmp_path / f"texts_{is_wrong}".lower()
    shutil.copytree(PARITY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if is_wrong:
        source = (folder / "network.py").read_text()
        source = source.replace("class Reader(", CELL).replace("nn.GRUCell(width", "Cell(width")
        (folder / "network.py").write_text(source)
    (tmp_path / "rows.jsonl").write_text('"01101"\n"10"\n')
    wish = Wish(file=tmp_path / "rows.jsonl", ways=("ddp",), batches=0, threads=1)
    report = look(tasks.find(str(folder)), tmp_path / "out", wish)
    _, ddp = report.comparisons
    assert ddp.first == ("cell, call 1" if is_wrong else "")
    assert (ddp.is_part, ddp.note) == (True, numerics.OTHER_GRAPHS)
    (told,) = (one.sentence for one in report.findings if one.sentence.startswith(ddp.title))
    assert "all modules agree" not in told
    assert ("is cell, call 1" if is_wrong else "the ranks drew different graphs") in told
    assert everywhere(report, tmp_path / "out", "two processes under DDP", "the ranks drew different graphs")


def test_a_computation_that_ends_before_eager_does_differs(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "ends_early")
    source, once = (task.folder / "train.py").read_text(), "return functional.mse_loss(network(x_B1), y_B1)"
    assert once in source
    twice = f"loss = {once[7:]}\n    torch.distributed.is_initialized() or network(x_B1)\n    return loss"
    (task.folder / "train.py").write_text(source.replace(once, twice))
    report = look(task, tmp_path / "out", Wish(ways=("ddp",), batches=0, threads=1))
    _, ddp = report.comparisons
    assert ddp.first == "(network), which it does not come to"


def test_rows_of_a_csv_file_are_read_as_training_reads_them(tmp_path: Path) -> None:
    texts = ["a\nb", "one\u2028two", "plain\r\nand\x0bmore", 'said "so", and went']
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    assert [row["text"] for row in rows.read(tmp_path / "rows.csv")] == texts
    (tmp_path / "broken.csv").write_text("text,label\nfine,so\nwith, a comma,so\n")
    with pytest.raises(ValueError, match="line 3: a row has other fields than the header"):
        rows.read(tmp_path / "broken.csv")


def test_modules_that_draw_random_numbers_are_not_held_against_other_ways(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "draws", "return x * self.scale * torch.rand_like(x)")
    report = look(task, tmp_path / "out", Wish(ways=("amp",), batches=0, threads=1))
    again, amp = report.comparisons
    assert again.first == "odd, call 1"
    assert amp.first == ""


def test_the_next_step_of_a_run_is_looked_at_exactly_and_the_run_goes_on_as_if_nobody_had(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", PARITY, epochs=2)
    training.stop(tmp_path / "run", word=PARITY, epochs=2, stop_at=10, checkpoint_steps=5)
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    step = found[0]["progress"]["step"]
    wish = Wish(run_dir=tmp_path / "run", ways=("amp",), batches=1, threads=1)
    report = look(tasks.find(PARITY), tmp_path / "out", wish, epochs=2)
    assert report.facts["step"].startswith(f"{step} (batch {step} of epoch 0)")
    assert report.values.loss == whole.losses[step]
    rest = training.train(tmp_path / "run", PARITY, epochs=2)
    assert rest.losses == whole.losses[-len(rest.losses) :]


def test_a_run_without_a_checkpoint_and_rows_of_no_task_are_sentences(tmp_path: Path) -> None:
    task = planted.plant(tmp_path, "plain")
    with pytest.raises(ValueError, match="has no checkpoint yet; leave out --run"):
        look(task, tmp_path / "out", Wish(run_dir=tmp_path, ways=()))
    rows = tmp_path / "rows.jsonl"
    for text, sentence in (
        ("[1]\n", "has no `rows` in its data.py"),
        ("5\n", "names training example 5; there are 0 to 4"),
        ("oh\n", r"line 1: no JSON"),
        ("", "has 0 rows; a batch has 1 to"),
    ):
        rows.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            look(task, tmp_path / "out", Wish(file=rows, ways=()))
    assert not (tmp_path / "out").exists()


def test_numbers_of_training_examples_make_up_a_batch_of_any_task(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("4\n0\n")
    report = look(planted.plant(tmp_path, "chosen"), tmp_path / "out", Wish(file=tmp_path / "rows.jsonl", ways=()))
    assert report.facts["examples"] == "training examples 4, 0"
    assert report.batches[0].shapes == [(2, 1), (2, 1)]


@pytest.mark.parametrize("word", tasks.TASKS)
def test_every_task_shows_its_graph_its_costs_and_its_norms(word: str, tmp_path: Path) -> None:
    task, out = tasks.find(word), tmp_path / "out"
    rows = {
        "sentiment": [{"text": "A dull film.", "label": "negative"}, "warm and funny"],
        "recommender": [{"user_id": "1"}, {"item_ids": ["1", "2", "3"]}],
        "classifier": [3, 5, 8],
    }[word]
    config = task.config.Config()
    data = task.data.load(config)
    if word == "recommender":
        rows[0] = {"user_id": data.user_ids[0]}
        rows[1] = {"item_ids": [item.id for item in data.catalogue[:3]]}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wish = Wish(file=tmp_path / "rows.jsonl", ways=("amp",), batches=2, threads=1)
    report = inspection.inspect(task, config, wish, out, data)
    assert bad(report) == []
    nodes = report.values.graph.nodes
    assert nodes[-1].shapes == [()]
    assert {node.parameter for node in nodes if node.parameter} <= names_of(task, config, data)
    assert all(layer.activations for layer in report.values.layers)
    assert report.costs.forward_ms > 0
    assert report.costs.operators
    spent = [module for module in report.costs.modules if module.module == "(network)"]
    assert spent[0].forward_ms >= spent[0].own_ms > 0
    ranges = {event["name"] for event in json.loads((out / inspection.TRACE).read_text())["traceEvents"]}
    assert {"forward", "backward", "module (network)"} <= ranges
    Page((out / inspection.PAGE).read_text()).check()


def names_of(task: Task, config: object, data: object) -> set[str]:
    return {name for name, _ in task.model.Model.create(config, data).network.named_parameters()}


def test_saved_memory_counts_each_tensor_once_and_no_weight(tmp_path: Path) -> None:
    report = look(planted.plant(tmp_path, "saves"), tmp_path / "out")
    kept = {node.number: (node.name, node.saved_bytes) for node in report.values.graph.nodes if node.saved_bytes}
    # what first is given (5 x 1), odd (5 x 3), last (5 x 3); prediction and target (5 x 1 each); floats of 4 bytes
    assert sorted(size for _, size in kept.values()) == [20, 40, 60, 60]
    assert report.values.graph.saved_bytes == 180


def test_norms_and_costs_of_each_module_are_those_of_what_it_computes(tmp_path: Path) -> None:
    report = look(planted.plant(tmp_path, "weighed"), tmp_path / "out")
    layers = {layer.module: layer for layer in report.values.layers}
    points = 5
    (slope,) = layers["last"].gradients  # 2 / N of the errors, of which the loss is the mean square
    assert slope == pytest.approx(2 * math.sqrt(report.values.loss / points), rel=1e-4)
    assert layers["(network)"].gradients == [slope]
    assert layers["odd"].activations == pytest.approx(layers["first"].activations), "its scale is 1"
    assert layers["odd"].gradients == pytest.approx(layers["first"].gradients)
    assert layers["odd"].weights["scale"][0] == 1.0
    assert all(gradient for _, gradient in layers["last"].weights.values())
    costs = {module.module: module for module in report.costs.modules}
    assert all(costs[name].backward_ms > 0 and costs[name].calls == 1 for name in ("first", "odd", "last"))
    assert [costs[name].weight_bytes for name in ("first", "odd", "last")] == [24, 4, 16]
    assert costs["odd"].allocated_bytes >= points * 3 * 4


def test_the_page_works_in_a_browser_that_is_offline(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser")
    (tmp_path / "rows.jsonl").write_text('"01101"\n"1"\n')
    look(tasks.find(PARITY), tmp_path / "out", Wish(file=tmp_path / "rows.jsonl", ways=(), batches=0, threads=1))
    address = (tmp_path / "out" / inspection.PAGE).as_uri() + "#part-2"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    shown = subprocess.run(
        [browser, *flags, offline, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=120
    )
    assert '<details id="part-2" open="">' in shown.stdout  # the script ran, and opened what was asked for
    assert '<details id="part-1">' in shown.stdout
    assert "Refused to" not in shown.stderr


class Page(HTMLParser):
    """A page taken apart, strictly: every tag is closed where it must be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.text = source, ""
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named and tag != "marker" else []
        self.links += [named[key] or "" for key in ("href", "src", "action", "data") if key in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def check(self) -> None:
        """Fails unless the page is whole, asks nothing of the network, and its links lead to places in it."""
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        assert {link for link in self.links if link.removeprefix("#") not in self.ids or link[0] != "#"} == set()
        assert "url(http" not in self.source
        assert "@import" not in self.source
        drawings = self.source.split("<svg ")[1:]
        assert drawings
        for drawing in drawings:
            ElementTree.fromstring("<svg " + drawing.split("</svg>")[0] + "</svg>")
