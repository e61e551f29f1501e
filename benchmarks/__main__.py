"""Remakes the figures of the README, one after the other: about an hour on two cores with nothing else running."""

import subprocess
import sys

FIGURES = (
    ("demo_time",),
    ("mnist", "accuracy"),
    ("mnist", "time"),
    ("ddp", "losses"),
    ("ddp", "accuracy"),
    ("ray_overhead",),
    ("training_speed", "--threads", "1"),
    ("submit",),
    ("checkpoints",),
    ("recovery",),
    ("elastic",),
    ("elastic", "--notice"),
    ("sentiment", "scratch"),
    ("sentiment", "encoder", "--amp"),
    ("recommender",),
    ("gate",),
    ("loop_overhead",),
    ("rivals",),
    ("serving", "--pairs", "9"),
    ("serve_start",),
    ("swap",),
    ("paths",),
    ("tracker_outage",),
    ("tuning",),
)


def main() -> int:
    """Runs each figure's command; returns 1 when one ended with an error."""
    failed = []
    for name, *words in FIGURES:
        command = [sys.executable, "-m", f"benchmarks.{name}", *words]
        print(f"\n== {' '.join(command[1:])}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nover the limit or failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
