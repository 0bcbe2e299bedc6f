"""How busy a server may be: a queue with random arrivals and runs that all take the same time (M/D/1).

The tail of the wait falls at least as fast as exp(-x t / s), s a run's seconds and x the positive root of
exp(x) - 1 = x / utilisation (Kingman's bound; Kleinrock, Queueing Systems 2, section 2.1). So the 99th percentile of
wait and run together is at most s (1 + ln(100) / x).
"""

from math import expm1, log

_TAIL = log(100)


def utilisation_for(run: float, p99: float) -> float:
    """The largest utilisation at which the 99th percentile surely keeps `p99`; 0 where a run alone takes longer.

    Args:
        run: seconds of one.
        p99: seconds of wait and run together.
    """
    if run >= p99:
        return 0.0
    root = run * _TAIL / (p99 - run)
    return root / expm1(root) if root < 500 else 0.0


def p99_of(run: float, utilisation: float) -> float:
    """What the 99th percentile of wait and run together surely keeps, in seconds; infinite from utilisation 1.

    Args:
        run: seconds of one.
        utilisation: arrivals a second times `run`.
    """
    if utilisation >= 1:
        return float("inf")
    low, high = 0.0, 1.0
    while high / expm1(high) > utilisation and high < 500:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle / expm1(middle) > utilisation else (low, middle)
    return run * (1 + _TAIL / low) if low else float("inf")
