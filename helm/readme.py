"""Writes the charts' READMEs from their values: `python helm/readme.py`; with --check it only compares."""

import re
import sys
from pathlib import Path

import yaml

CHARTS = [Path(__file__).resolve().parent / name for name in ("eagerly", "platform")]
ENTRY = re.compile(r"( *)([\w-]+):(.*)")


def rows(text: str) -> list[tuple[str, str, str]]:
    """Reads every value's path, default and comment; raises ValueError for a value without one."""
    found, path, comment, blocks = [], [], "", {}
    values = yaml.safe_load(text)
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = stripped.removeprefix("# -- ")
        elif stripped.startswith("# ") and comment:
            comment += " " + stripped.removeprefix("# ")
        elif entry := ENTRY.match(line):
            depth = len(entry[1]) // 2
            path = [*path[:depth], entry[2]]
            default = values
            for key in path:
                default = default[key] if isinstance(default, dict) and key in default else blocks
            if default is blocks or {tuple(path[:depth]) for depth in range(len(path))} & {row[3] for row in found}:
                continue  # within the default of a value that is a map
            if comment:
                found.append((".".join(path), _shown(default), comment, tuple(path)))
            elif not isinstance(default, dict) or not default:
                raise ValueError(f"values.yaml, line {number}: {'.'.join(path)} has no comment that begins with `# --`")
            comment = ""
    return [row[:3] for row in found]


def page(chart: Path) -> str:
    """Puts a README together."""
    head = (chart / "README.head.md").read_text()
    lines = ["| value | default | what |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {what} |" for name, default, what in rows((chart / "values.yaml").read_text())]
    return head + "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    if default in ("", [], {}):
        return ""
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"`{text}`"


def main(words: list[str]) -> int:
    """Writes, or with --check says whether there is something to write."""
    for chart in CHARTS:
        made, place = page(chart), chart / "README.md"
        if "--check" not in words:
            place.write_text(made)
        elif not place.exists() or place.read_text() != made:
            print(f"{place} is not what values.yaml says; run `make chart`", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
