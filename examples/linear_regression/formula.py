"""What the article derives by hand: the gradient of the squared error, and where it is zero.

With errors e = w x + b - y and their mean square L: dL/dw = 2 mean(e x) and dL/db = 2 mean(e).
"""

from .data import X, Y


def gradient(w: float, b: float) -> tuple[float, float]:
    """Gives dL/dw and dL/db over the five points."""
    errors = [w * x + b - y for x, y in zip(X, Y, strict=True)]
    return 2 * sum(e * x for e, x in zip(errors, X, strict=True)) / len(X), 2 * sum(errors) / len(X)


def least_squares() -> tuple[float, float]:
    """Gives the w and b whose gradient is zero: 1.4 and -0.22."""
    mean_x, mean_y = sum(X) / len(X), sum(Y) / len(Y)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(X, Y, strict=True))
    w = covariance / sum((x - mean_x) ** 2 for x in X)
    return w, mean_y - w * mean_x
