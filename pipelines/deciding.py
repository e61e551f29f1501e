"""Whether a version becomes champion, and why; what was decided is noted before it is carried out."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pipelines import verdict
from pipelines.verdict import Verdict

if TYPE_CHECKING:
    from pipelines.registry import Version

DECIDED = "eagerly.decided"
"""Tag of a version: whether it becomes champion, why or why not, and the number of the champion before, as JSON."""


def compare(
    new: "Version", old: "Version | None", promotion: str, judge: "Callable[[Version, Version], Verdict]"
) -> tuple[bool, str]:
    """Says whether a version may take the champion's place, and why; `promotion` is gate, always or never."""
    if promotion == "never":
        return False, "not promoted, as --promote never asks"
    if old is None:
        return True, "champion, as there was none"
    if old.version == new.version:
        return True, "champion already when it was to be judged"
    if promotion == "always":
        return True, f"champion in place of version {old.version}, as --promote always asks"
    found = judge(new, old)
    return found.promoted, found.reason


def by_metric(new: "Version", old: "Version") -> Verdict:
    """Judges by the primary test metrics alone."""
    ours, theirs = new.metrics[new.primary], old.metrics.get(new.primary, float("-inf"))
    return verdict.by_metric(new.primary, ours, theirs, 0.0, f"version {old.version}")


def note(better: bool, reason: str, old: "Version | None") -> str:
    """Writes the tag."""
    return json.dumps({"better": better, "reason": reason, "before": old.version if old else None})


def unfinished(tags: Mapping[str, str], new: "Version", old: "Version | None") -> tuple[bool, str] | None:
    """Reads from a version's tags why it was to become champion; None where no promotion was cut short.

    `old` is the champion of now: where it is neither the one of then nor the new one, others decided since.
    """
    noted = json.loads(tags.get(DECIDED, "{}"))
    number = old.version if old else None
    if not noted.get("better") or noted["reason"] == new.gate or number not in (noted["before"], new.version):
        return None
    return True, noted["reason"]
