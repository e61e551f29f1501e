"""How long `make demo` takes on a fresh clone, and where the time goes.

`python -m benchmarks.demo_time` clones this repository's HEAD into a temporary folder and runs `make demo` there twice:
first with nothing installed and empty package caches, then with everything installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = re.compile(r"== +(\d+) s  (.*)")
LIMITS_S = {"fresh": 360.0, "installed": 180.0}


def main() -> None:
    """Runs both and prints the stages of each; fails when one is over its limit."""
    folder = Path(tempfile.mkdtemp(prefix="eagerly-demo-"))
    try:
        clone = folder / "eagerly"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        fresh = {"UV_CACHE_DIR": str(folder / "uv"), "PIP_NO_CACHE_DIR": "1", "EAGERLY_HOME": str(folder / "home")}
        seconds = {"fresh": _demo("fresh", clone, fresh)}
        for leftover in ("runs", "mlruns", "mlflow.db"):
            path = clone / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        seconds["installed"] = _demo("installed", clone, fresh)
    finally:
        shutil.rmtree(folder)
    sys.exit(any(seconds[name] > limit for name, limit in LIMITS_S.items()))


def _demo(name: str, clone: Path, settings: dict[str, str]) -> float:
    began = time.monotonic()
    command = ["make", "demo"]
    process = subprocess.Popen(
        command, cwd=clone, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    stages: list[tuple[float, str]] = [(0.0, "installing" if name == "fresh" else "starting Python")]
    for line in process.stdout:
        if found := STAGE.match(line):
            stages.append((time.monotonic() - began, found[2]))
    if process.wait():
        sys.exit(f"make demo ended with {process.returncode}")
    total = time.monotonic() - began
    print(f"{name}: {total:.0f} s (at most {LIMITS_S[name]:.0f})")
    for (start, what), (end, _) in zip(stages, [*stages[1:], (total, "")], strict=True):
        print(f"  {end - start:5.1f} s  {what}")
    return total


if __name__ == "__main__":
    main()
