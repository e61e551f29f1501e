"""How the learning rate moves over a run: functions of the counter of steps alone; standard library only."""

import math

WARM_UP = {"onecycle": 0.25, "wsd": 0.05}
"""Share of the steps in which the rate rises where none is given; 0 for others."""
START = 0.04
"""Of the peak, where a rising rate begins."""


def rate(schedule: str, step: int, total: int, warm_up: float = -1.0, cool_down: float = 0.2) -> float:
    """Scales the learning rate at a step of `total`, from 0 to 1; a function of the counter alone.

    `warm_up` is the share of the steps in which it rises linearly from 1/25 (Goyal et al., 2017), -1 the schedule's
    own. Then constant stays, cosine falls as one (Loshchilov and Hutter, 2017), onecycle as well, after a long rise
    (Smith and Topin, 2017), and wsd stays and falls in the last share `cool_down`, by one minus the square root of
    how much of that has passed (warm-up, stable, decay: Hu et al., 2024; the root: Hägele et al., 2024).
    """
    warm = (WARM_UP.get(schedule, 0.0) if warm_up < 0 else warm_up) * total
    if step < warm:
        return START + (1 - START) * step / warm
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        fall = cool_down * total
        return 1 - math.sqrt(max(0.0, step - (total - fall)) / max(1.0, fall))
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))
