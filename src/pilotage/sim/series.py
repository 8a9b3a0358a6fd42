"""Curves over time in a bounded number of points, whatever the length of the run and the number of tasks.

Time is divided into equal bins. When it runs past the last one, bins are merged in pairs and are twice as long from then on,
so that a curve never has fewer than half of its points, nor more. What is noted of a level (tasks that run, cores in use) is
exact in its integral: each bin knows the mean level over its time.
"""

from __future__ import annotations

POINTS = 512
FIRST_BIN_S = 1.0 / 64


class _Curve:
    """Bins that cover the time from 0 to the latest that was asked for."""

    __slots__ = ("width_s",)

    def __init__(self) -> None:
        self.width_s = FIRST_BIN_S

    def cover(self, time_s: float) -> int:
        """Make the bins long enough to reach this time; return the bin that it falls into."""
        place = int(time_s / self.width_s)
        while place >= POINTS:
            self.lengthen()
            place = int(time_s / self.width_s)
        return place

    def lengthen(self) -> None:
        """Merge bins in pairs."""
        self._merge()
        self.width_s *= 2.0

    def _merge(self) -> None:
        raise NotImplementedError


class Levels(_Curve):
    """A quantity that goes up and down, such as the number of tasks that run. ``change`` may come out of order."""

    __slots__ = ("_inside", "_steps")

    def __init__(self) -> None:
        super().__init__()
        # The mean of a bin is the sum of all steps up to it, plus what changes inside of it.
        self._inside = [0.0] * POINTS
        self._steps = [0.0] * (POINTS + 1)

    def change(self, time_s: float, amount: float) -> None:
        """The level is higher by ``amount`` from then on."""
        place = self.cover(time_s)
        self._inside[place] += amount * (place + 1 - time_s / self.width_s)
        self._steps[place + 1] += amount

    def _merge(self) -> None:
        inside, steps = self._inside, self._steps
        half = POINTS // 2
        self._inside = [0.5 * (inside[2 * place] + inside[2 * place + 1] + steps[2 * place + 1]) for place in range(half)]
        self._inside += [0.0] * half
        merged = [steps[0], *(steps[2 * place] + steps[2 * place - 1] for place in range(1, half + 1))]
        self._steps = merged + [0.0] * half

    def means(self, bins: int) -> list[float]:
        """Return the mean level in each of the first bins."""
        means, level = [], 0.0
        for place in range(bins):
            level += self._steps[place]
            means.append(level + self._inside[place])
        return means


class Counts(_Curve):
    """How often something happened, such as starts."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts = [0.0] * POINTS

    def note(self, time_s: float, count: int = 1) -> None:
        """It happened ``count`` times, then."""
        place = self.cover(time_s)
        self._counts[place] += count

    def _merge(self) -> None:
        counts = self._counts
        half = POINTS // 2
        self._counts = [counts[2 * place] + counts[2 * place + 1] for place in range(half)] + [0.0] * half

    def rates(self, bins: int) -> list[float]:
        """Return how often it happened in a second, in each of the first bins."""
        return [count / self.width_s for count in self._counts[:bins]]


class Waits:
    """How long many waited: their number, mean and longest, and quantiles to within an eighth, in seconds."""

    __slots__ = ("_kinds", "count", "most_s", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.most_s = 0.0
        self._kinds: dict[int, int] = {}

    def note(self, waited_s: float, count: int = 1) -> None:
        """So many waited so long."""
        self.count += count
        self.total_s += count * waited_s
        self.most_s = max(self.most_s, waited_s)
        # Thousandths of a second in 8 significant steps for each power of two: the high bits of an integer.
        ticks = int(waited_s * 1000.0)
        drop = ticks.bit_length() - 4
        kind = (drop << 4 | ticks >> drop) if drop > 0 else ticks
        self._kinds[kind] = self._kinds.get(kind, 0) + count

    @property
    def mean_s(self) -> float:
        """The mean; 0.0 if nobody waited."""
        return self.total_s / self.count if self.count else 0.0

    def quantile_s(self, share: float) -> float:
        """Return how long this share of them waited at the most."""
        left = share * self.count
        for kind in sorted(self._kinds):
            left -= self._kinds[kind]
            if left <= 0:
                drop, high = (kind >> 4, kind & 15) if kind > 15 else (0, kind)
                return min(self.most_s, ((high + 1 << drop) - (drop == 0)) / 1000.0)
        return self.most_s
