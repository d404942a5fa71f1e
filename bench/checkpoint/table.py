"""PURE. The table of the benchmark, in Markdown: measured values beside goals."""

from collections.abc import Iterator
from statistics import median

from bench.checkpoint.figures import CHECKPOINTS_PER_KILL, Measured, ratio

HEAD = ("figure", "measured", "goal", "reached")
PAUSE_SHARE, LORA_PAUSE, COPY_RATIO, LOAD_RATIO, UPLOAD_RATIO, GOODPUT = 0.005, 0.2, 1.2, 1.5, 0.8, 0.97
"""Goals: maximum share of pauses, pause of LoRA in seconds, ratio to a copy, ratio to a raw read; minimum
ratio to the rate of the fastest client, and goodput."""
_MB = 1e6
Row = tuple[str, str, str, str]


def rendered(measured: Measured) -> str:
    """The table of one method.

    Args:
        measured: the measurements.
    """
    title = (
        f"{measured.method}: {measured.trained / 1e6:,.1f} million trained parameters, a checkpoint of"
        f" {measured.size / _MB:,.0f} MB, {len(measured.pause)} rounds"
    )
    lines = [HEAD, ("---",) * len(HEAD), *_rows(measured)]
    return "\n\n".join([title, "\n".join(f"| {' | '.join(cells)} |" for cells in lines)])


def _rows(measured: Measured) -> Iterator[Row]:
    pause, clone = median(measured.pause), median(measured.clone)
    yield _figure(f"pause, s (first checkpoint {measured.first_pause:.2f} s)", f"{pause:.3f}")
    if measured.method == "LoRA":
        yield _goal("pause of LoRA, s", f"{pause:.3f}", f"at most {LORA_PAUSE}", reached=pause <= LORA_PAUSE)
    to_clone = ratio(measured.pause, measured.clone)
    yield _goal(
        f"pause / clone of the same tensors ({clone:.3f} s)",
        f"{to_clone:.2f}",
        f"at most {COPY_RATIO}",
        reached=to_clone <= COPY_RATIO,
    )
    yield _figure(
        f"pause / copy to memory that was used before ({median(measured.copy_again):.3f} s)",
        f"{ratio(measured.pause, measured.copy_again):.2f}",
    )
    plain = median(measured.plain)
    yield _figure(
        f"pause / checkpoint of Trainer on the local disk ({plain:.2f} s,"
        f" {measured.plain_size / _MB:,.0f} MB)",
        f"{pause / plain:.3f}",
    )
    yield _goal(
        f"share of pauses at the default interval ({measured.interval:.0f} s)",
        f"{measured.pause_share:.2%}",
        f"at most {PAUSE_SHARE:.1%}",
        reached=measured.pause_share <= PAUSE_SHARE,
    )
    yield _figure("upload of a checkpoint, MB/s", _rate(measured.size, measured.upload))
    for name, seconds in measured.clients.items():
        yield _figure(f"upload of a file of this size by {name}, MB/s", _rate(measured.size, seconds))
    yield _goal(
        f"rate of the upload / rate of the fastest client ({measured.fastest_client})",
        f"{measured.upload_ratio:.2f}",
        f"at least {UPLOAD_RATIO}",
        reached=measured.upload_ratio >= UPLOAD_RATIO,
    )
    yield _figure(
        f"delay of training by one upload, s (a step takes {measured.step:.2f} s)", f"{measured.slowdown:.1f}"
    )
    to_raw = ratio(measured.load, measured.raw)
    yield _goal(
        f"load of a resume ({median(measured.load):.2f} s) / raw read ({median(measured.raw):.2f} s)",
        f"{to_raw:.2f}",
        f"at most {LOAD_RATIO}",
        reached=to_raw <= LOAD_RATIO,
    )
    yield _figure("SIGKILL of the rank until a step of a new pod, s", f"{measured.killed.recovery:.1f}")
    goodput = measured.goodput_after_a_checkpoint
    yield _goal(
        f"goodput, killed when checkpoint {CHECKPOINTS_PER_KILL} is complete (calculated)",
        f"{goodput:.1%}",
        f"at least {GOODPUT:.0%}",
        reached=goodput >= GOODPUT,
    )
    yield _figure(
        f"goodput, killed in the middle before checkpoint {CHECKPOINTS_PER_KILL + 1} (calculated)",
        f"{measured.goodput_between_checkpoints:.1%}",
    )


def _figure(name: str, value: str) -> Row:
    return name, value, "", ""


def _goal(name: str, value: str, goal: str, *, reached: bool) -> Row:
    return name, value, goal, "yes" if reached else "no"


def _rate(size: int, seconds: tuple[float, ...]) -> str:
    return f"{size / _MB / median(seconds):,.0f}"
