"""How certain a mean over few trainings is: Student's t, half widths and Welch's test. Light."""

from __future__ import annotations

import math
from functools import cache

CONFIDENCE = 0.95  # of half widths over trainings, and of Welch's test
PIECES = 400  # of the integral, an even number: right to 1e-9


def student_probability(t: float, freedom: float) -> float:
    """P(|T| <= t) of Student's distribution with `freedom` degrees of freedom, at least 1.

    With T = sqrt(freedom) tan(a) the density is proportional to cos(a)^(freedom - 1): Simpson's
    rule over that.
    """
    end = math.atan(t / math.sqrt(freedom))
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    total = 0.0
    for piece in range(PIECES + 1):
        weight = 1 if piece in (0, PIECES) else 4 if piece % 2 else 2
        total += weight * math.cos(end * piece / PIECES) ** (freedom - 1)
    return 2 * math.exp(scale) / math.sqrt(math.pi) * total * end / PIECES / 3


@cache
def student_quantile(freedom: float) -> float:
    """The t that |T| exceeds in 5% of cases: 12.7 for one degree of freedom, 4.30 for two."""
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if student_probability(middle, freedom) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def half_width(deviation: float | None, trainings: int) -> float | None:
    """Half the width of a score's error bar.

    Of one training, two standard deviations over samples; of several, the 95% confidence interval
    of their mean, from the standard deviation over trainings.
    """
    if deviation is None or trainings < 2:
        return None if deviation is None else 2 * deviation
    return student_quantile(trainings - 1) * deviation / math.sqrt(trainings)


Mean = tuple[float, float, int]  # a mean, the standard deviation, and of how many trainings


def apart(one: Mean, other: Mean) -> bool:
    """Whether two scores can be told apart.

    Scores of one training each: by more than two standard deviations, over samples, of their
    difference. Means over trainings: by Welch's t (Welch 1947, Biometrika 34) at 95%, with the
    degrees of freedom that follow from the data. One training beside several is taken to vary
    from training to training as much as those do.
    """
    (a, _, count_a), (b, _, count_b) = one, other
    if count_a < 2 and count_b < 2:
        return abs(a - b) > 2 * math.hypot(one[1], other[1])
    if min(count_a, count_b) < 2:
        (_, single, _), (_, spread, count) = sorted((one, other), key=lambda mean: mean[2])
        error = math.hypot(max(single, spread), spread / math.sqrt(count))
        return abs(a - b) > student_quantile(count - 1) * error
    parts = [deviation**2 / count for _, deviation, count in (one, other)]
    squares = sum(p**2 / (c - 1) for p, c in zip(parts, (count_a, count_b), strict=True))
    if squares == 0:  # trainings that do not differ at all
        return a != b
    return abs(a - b) > student_quantile(sum(parts) ** 2 / squares) * math.sqrt(sum(parts))
