"""PURE. Steps done become percent, throughput and time to go."""

from dataclasses import dataclass, replace
from typing import Self

_WINDOW = 32


@dataclass(frozen=True)
class _Mark:
    """What had been done in all at one moment."""

    now: float
    step: int
    samples: int
    tokens: int


@dataclass(frozen=True)
class Meter:
    """Measures a loop of steps inside a stage. Use: `meter = meter.after(...)` at every step.

    Throughput is the average over the last 32 steps. The time to go comes from the whole loop since its
    first step, so that evaluations and saves on the way count; the first step itself, which warms up,
    does not.

    Args:
        total_steps: steps of the whole loop, at least 1.
        first_percent: how far the stage was when the loop began.
        last_percent: how far the stage is when the loop is over.
    """

    total_steps: int
    first_percent: float = 0.0
    last_percent: float = 100.0
    _begin: _Mark | None = None
    _recent: tuple[_Mark, ...] = ()

    def after(self, step: int, *, now: float, samples: int, tokens: int) -> Self:
        """The meter after a step.

        Args:
            step: steps done in all, from 1.
            now: seconds of any clock that never goes back (time.monotonic).
            samples: rows seen in all, over all processes.
            tokens: tokens seen in all, over all processes.
        """
        mark = _Mark(now, step, samples, tokens)
        return replace(self, _begin=self._begin or mark, _recent=(*self._recent[-_WINDOW:], mark))

    def fields(self) -> dict[str, float]:
        """Fields of contract.Progress; rates are left out until two steps have been seen."""
        if not self._recent:
            return {"percent": self.first_percent, "total_steps": self.total_steps}
        first, last = self._recent[0], self._recent[-1]
        share = min(1.0, last.step / self.total_steps)
        known: dict[str, float] = {
            "percent": self.first_percent + share * (self.last_percent - self.first_percent),
            "step": last.step,
            "total_steps": self.total_steps,
        }
        seconds = last.now - first.now
        if seconds > 0:
            known["samples_per_second"] = (last.samples - first.samples) / seconds
            known["tokens_per_second"] = (last.tokens - first.tokens) / seconds
        begin = self._begin
        if begin and last.step > begin.step and last.now > begin.now:
            each = (last.now - begin.now) / (last.step - begin.step)
            known["eta_seconds"] = max(0, self.total_steps - last.step) * each
        return known
