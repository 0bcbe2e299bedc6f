"""How long a run takes: seconds = `per_unit` * cost + `fixed`, learned from the runs themselves.

Cost is rows, or padded elements where a model takes rows of different lengths. Runs are sorted into bins by the power
of two of their cost, and each bin keeps the exponentially weighted mean of its costs and seconds; the line is the
weighted least squares fit through the bins, by relative error, since runs of one row decide on `fixed` and are the
shortest. Bins are what makes this hold when every run has the same size: a plain least squares fit with forgetting
would then lose the slope, but here the bins of other sizes stay as they were last seen. A run that takes far longer
than its bin's mean (the machine did something else) counts as three times the mean at most, so that it is forgotten
within a few runs.
"""

_FORGET = 0.05  # the weight of a new run in a bin that has seen many
_LONGEST = 3.0  # times a bin's mean
_MOST_COUNT = 20.0
_LEAST = 1e-12  # seconds a unit
_APART = 2.0  # the costs that a line is drawn through differ by this factor at least


class _Bin:
    __slots__ = ("cost", "count", "seconds")

    def __init__(self) -> None:
        self.cost = self.seconds = 0.0
        self.count = 0

    def learn(self, cost: float, seconds: float) -> None:
        if self.seconds > _LONGEST * seconds:
            self.count = 0  # no run is shorter than it can be: it was the earlier ones that were disturbed
        if self.count:
            seconds = min(seconds, _LONGEST * self.seconds)
        self.count += 1
        weight = max(1 / self.count, _FORGET)
        self.cost += weight * (cost - self.cost)
        self.seconds += weight * (seconds - self.seconds)


class Durations:
    """The line through what was seen.

    Attributes:
        known: whether runs of different cost were seen; until then the other two are 0.
        per_unit: seconds a unit of cost; more than 0 once it is known.
        fixed: seconds a run, whatever its cost.
    """

    __slots__ = ("_bins", "_stale", "fixed", "known", "per_unit")

    def __init__(self) -> None:
        self.known = False
        self.per_unit = self.fixed = 0.0
        self._bins: dict[int, _Bin] = {}
        self._stale = 0

    def learn(self, cost: int, seconds: float) -> None:
        """A run of this cost took so long."""
        place = self._bins.get(cost.bit_length())
        if place is None:
            place = self._bins[cost.bit_length()] = _Bin()
        place.learn(cost, seconds)
        self._stale += 1
        if place.count < _MOST_COUNT or self._stale >= _MOST_COUNT:  # a line that is well known is not drawn every run
            self._stale = 0
            self._fit()

    def of(self, cost: float) -> float:
        """Seconds that a run of this cost is expected to take."""
        return self.per_unit * cost + self.fixed

    def _fit(self) -> None:
        bins = [place for place in self._bins.values() if place.seconds > 0]
        costs = [place.cost for place in bins]
        if not bins or max(costs) < _APART * min(costs):
            return
        weights = [min(place.count, _MOST_COUNT) / place.seconds**2 for place in bins]
        total = sum(weights)
        cost = sum(w * place.cost for w, place in zip(weights, bins, strict=True)) / total
        seconds = sum(w * place.seconds for w, place in zip(weights, bins, strict=True)) / total
        spread = sum(w * (place.cost - cost) ** 2 for w, place in zip(weights, bins, strict=True))
        joint = sum(w * (place.cost - cost) * (place.seconds - seconds) for w, place in zip(weights, bins, strict=True))
        slope = max(joint / spread, 0.0)
        self.fixed = max(seconds - slope * cost, 0.0)
        self.per_unit = max((seconds - self.fixed) / cost, _LEAST)
        self.known = True
