"""The gate's report: one HTML page with its pictures inside, which needs no network to be read.

Shapes: N test examples that were judged.
"""

import base64
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import charts
from pipelines.registry import Version
from pipelines.resampling import Ints
from pipelines.verdict import Pair, Rules, Slice, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 40
"""Most slices and most examples that are shown; the rest is in verdict.json."""
LONGEST = 400
"""Characters of an example's text that are shown."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } td.number { white-space: nowrap }
td.number { font-variant-numeric: tabular-nums }
.verdict { padding: .8rem 1rem; border-left: .4rem solid #b3261e; background: #fdf1f0 }
.verdict.promoted { border-color: #1f7a3d; background: #eef8f1 } .fell { color: #b3261e } .open { color: #777 }
img { max-width: 100% } img.example { image-rendering: pixelated; width: 64px } h1 { font-size: 1.5rem }
"""


@dataclass(frozen=True)
class Shown:
    """The examples that a report can show."""

    places: Ints
    """Where the judged examples lie in the test split [N]."""
    labels: list[str]
    inputs: Callable[[list[int]], list[Any]] | None
    """Gives some test examples as callers would send them; None where the task does not say."""


def write(path: Path, new: Version, old: Version, verdict: Verdict, pair: Pair, rules: Rules, shown: Shown) -> None:
    """Writes the page of a verdict."""
    assert verdict.difference is not None, "only a verdict on examples has a report"
    title = f"{new.name}: version {new.version} against version {old.version}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="verdict {"promoted" if verdict.promoted else ""}">{_text(verdict.reason)}</p>',
        "".join(f"<p>{_text(note)}</p>" for note in verdict.notes),
        _facts(new, old, verdict),
        f"<h2>Difference of {_text(pair.primary)}</h2>",
        _image(charts.difference(verdict, rules)) if _is_finite(verdict) else "<p>It is no number.</p>",
        *_slices(verdict, rules),
        *_calibration(verdict, pair),
        *_changed(pair, verdict, shown),
        _rules(rules, verdict),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _is_finite(verdict: Verdict) -> bool:
    return verdict.draws is not None and bool(np.isfinite(verdict.draws).all())


def _facts(new: Version, old: Version, verdict: Verdict) -> str:
    rows = [
        ("", f"version {new.version}, new", f"version {old.version}, champion"),
        (verdict.primary, f"{verdict.ours:.4f}", f"{verdict.theirs:.4f}"),
        ("better here than the other, in examples", str(verdict.gained), str(verdict.lost)),
        ("digest", new.digest[:12], old.digest[:12]),
        ("run", new.run_id, old.run_id),
    ]
    return _table(rows)


def _slices(verdict: Verdict, rules: Rules) -> Iterable[str]:
    if not verdict.slices:
        return
    worst = sorted(verdict.slices, key=lambda one: one.difference.estimate)[:SHOWN]
    yield "<h2>Slices</h2>"
    if len(worst) < len(verdict.slices):
        yield f"<p>The {len(worst)} slices of {len(verdict.slices)} with the greatest falls.</p>"
    yield _image(charts.forest(worst, rules))
    head = ("slice", "examples", "new", "champion", "difference", "")
    yield _table([head, *(_slice_row(one) for one in worst)], [one.state for one in worst])
    yield (
        f"<p>A slice fell when its metric fell by more than {rules.slice_margin:g} and its interval lies below 0; all "
        f"intervals hold together at {rules.confidence * 100:g} %. <i>Open</i> are slices with too few examples to "
        f"rule out a fall of more than {rules.slice_margin:g}.</p>"
    )


def _slice_row(one: Slice) -> tuple[str, ...]:
    told = (f"{one.kind}: {one.name}", str(one.count), f"{one.ours:.4f}", f"{one.theirs:.4f}")
    return *told, str(one.difference), one.state


def _calibration(verdict: Verdict, pair: Pair) -> Iterable[str]:
    if not verdict.calibration:
        return
    yield "<h2>Calibration</h2>"
    yield _image(charts.reliability(pair))
    rows = [
        (one.name, f"{one.ours:.4f}", f"{one.theirs:.4f}", str(one.difference), "worse" if one.worse else "no worse")
        for one in verdict.calibration
    ]
    yield _table([("less is better", "new", "champion", "difference", ""), *rows])


def _changed(pair: Pair, verdict: Verdict, shown: Shown) -> Iterable[str]:
    """Shows the examples on which the new version lost the most."""
    change_N = pair.ours.score - pair.theirs.score
    order_N = np.argsort(change_N, kind="stable")[:SHOWN]
    lost_N = order_N[change_N[order_N] < 0]
    yield "<h2>Examples that went from right to wrong</h2>" if pair.target is not None else "<h2>Greatest falls</h2>"
    yield f"<p>{verdict.gained} examples gained and {verdict.lost} lost; of the latter {len(lost_N)} are shown.</p>"
    if not len(lost_N):
        return
    places = shown.places[lost_N].tolist()
    pictures = shown.inputs(places) if shown.inputs else [""] * len(places)
    rows = [
        f"<tr><td>{place}</td><td>{_example(one)}</td>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"
        for place, one, cells in zip(places, pictures, _answers(pair, lost_N, shown.labels), strict=True)
    ]
    head = ("true", "new", "champion") if pair.target is not None else (f"{pair.primary}, new", "champion")
    yield f"<table><tr><th>#</th><th>example</th>{''.join(f'<th>{_text(cell)}</th>' for cell in head)}</tr>"
    yield f"{''.join(rows)}</table>"


def _answers(pair: Pair, at_N: Ints, labels: Sequence[str]) -> list[tuple[str, ...]]:
    if pair.target is None or pair.ours.guess is None or pair.theirs.guess is None:
        return [(f"{pair.ours.score[at]:.4f}", f"{pair.theirs.score[at]:.4f}") for at in at_N.tolist()]
    columns = (pair.target, pair.ours.guess, pair.theirs.guess)
    return [tuple(_label(int(column_N[at]), labels) for column_N in columns) for at in at_N.tolist()]


def _label(place: int, labels: Sequence[str]) -> str:
    if not labels:
        return str(place)
    return labels[place] if place < len(labels) else "another label"


def _example(one: Any) -> str:
    """Shows an image as one, a text as it is, anything else as Python writes it."""
    if isinstance(one, np.ndarray) and one.dtype == np.uint8 and one.ndim == 3:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(one[:, :, 0] if one.shape[2] == 1 else one).save(file, "PNG")
        return _img(file.getvalue(), "example")
    text = one if isinstance(one, str) else repr(one)
    return _text(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")


def _rules(rules: Rules, verdict: Verdict) -> str:
    count = 0 if verdict.draws is None else len(verdict.draws)
    told = {"margin": rules.margin, "slice margin": rules.slice_margin, "confidence": rules.confidence}
    return f"<p>Rules: {_text(json.dumps(told))}; {count} resamples of {verdict.count} test examples.</p>"


def _table(rows: Sequence[Sequence[str]], states: Sequence[str] = ()) -> str:
    head, *rest = rows
    states = states or [""] * len(rest)
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"]
    for state, row in zip(states, rest, strict=True):
        cells = "".join(f'<td class="number">{_text(cell)}</td>' for cell in row)
        lines.append(f'<tr class="{state}">{cells}</tr>')
    return f"<table>{''.join(lines)}</table>"


def _image(figure: "Figure") -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"<p>{_img(file.getvalue())}</p>"


def _img(png: bytes, kind: str = "") -> str:
    return f'<img class="{kind}" alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _text(text: str) -> str:
    return html.escape(text)
