"""How the learning rate moves over a run: functions of the counter of steps alone; standard library only."""

import math

WARM_UP = 0.25
"""Share of the steps in which onecycle's rate rises."""


def rate(schedule: str, step: int, total: int) -> float:
    """Scales the learning rate at a step of `total`, from 0 to 1; a function of the counter alone.

    onecycle rises linearly from 1/25 and falls as a cosine (Smith and Topin, 2017); cosine only falls.
    """
    if schedule == "constant":
        return 1.0
    warm = WARM_UP * total if schedule == "onecycle" else 0.0
    if step < warm:
        return 0.04 + 0.96 * step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))
