"""PURE. Computes progress in percent, throughput and remaining time from completed steps."""

from dataclasses import dataclass, replace
from typing import Self

_WINDOW = 32
"""Steps over which the throughput is averaged."""


@dataclass(frozen=True)
class _Mark:
    """The totals at one time."""

    now: float
    """Seconds of a monotonic clock."""
    step: int
    samples: int
    tokens: int


@dataclass(frozen=True)
class Meter:
    """Measures a loop of steps in a stage. Usage: `meter = meter.after(...)` after every step.

    The throughput is the average over the last 32 steps. The remaining time is extrapolated from the end of
    the first step, so that it includes evaluations and excludes the first step, which is slower.

    Args:
        total_steps: number of steps of the loop, at least 1.
        first_percent: progress of the stage at the start of the loop, in percent.
        last_percent: progress of the stage at the end of the loop, in percent.
        peak_tokens_per_second: throughput at the peak of all GPUs; None if the peak is unknown.
    """

    total_steps: int
    first_percent: float = 0.0
    last_percent: float = 100.0
    peak_tokens_per_second: float | None = None
    _begin: _Mark | None = None
    _recent: tuple[_Mark, ...] = ()

    def after(self, step: int, *, now: float, samples: int, tokens: int) -> Self:
        """Returns the meter with one more step.

        Args:
            step: number of completed steps, from 1.
            now: seconds of a monotonic clock (time.monotonic).
            samples: number of rows so far, over all processes.
            tokens: number of tokens so far, over all processes.
        """
        mark = _Mark(now, step, samples, tokens)
        return replace(self, _begin=self._begin or mark, _recent=(*self._recent[-_WINDOW:], mark))

    def fields(self) -> dict[str, float]:
        """The fields of contract.Progress. Rates and remaining time need at least two steps."""
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
            if self.peak_tokens_per_second:
                known["mfu"] = known["tokens_per_second"] / self.peak_tokens_per_second
        begin = self._begin
        if begin and last.step > begin.step and last.now > begin.now:
            each = (last.now - begin.now) / (last.step - begin.step)
            known["eta_seconds"] = max(0, self.total_steps - last.step) * each
        return known
