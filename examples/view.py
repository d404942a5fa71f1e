"""A FineTuneJob as a person wants to see it in a terminal: stages, progress, figures. Pure."""

from typing import Any

from finetune_trainer.contract import HIGHER_IS_BETTER

STAGES = (("Prepare", "Prepared"), ("Train", "Evaluated"), ("Publish", "Published"))
BAR = 28
_LARGE = 100


def live(job: dict[str, Any]) -> str:
    """One line on where a job stands."""
    status = job.get("status") or {}
    done = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
    current = status.get("stage")
    stages = "  ".join(
        f"{'✔' if condition in done else '▸' if stage == current else '·'} {stage}"
        for stage, condition in STAGES
    )
    progress = status.get("progress") or {}
    if not progress or "Finished" in done:
        return f"{stages}   {status.get('message', 'not seen by the operator yet')}"
    percent = progress.get("percent", 0)
    filled = round(BAR * percent / 100)
    parts = [f"{'█' * filled}{'░' * (BAR - filled)} {percent:3d} %", progress.get("activity", "")]
    if "step" in progress:
        parts.append(f"step {progress['step']}/{progress.get('totalSteps', '?')}")
    if "loss" in progress:
        parts.append(f"loss {progress['loss']:.3f}")
    if "samplesPerSecond" in progress:
        parts.append(f"{progress['samplesPerSecond']:.0f} rows/s")
    if "etaSeconds" in progress:
        parts.append(f"{progress['etaSeconds']} s left")
    return f"{stages}   {'  '.join(part for part in parts if part)}"


def scores(evaluation: dict[str, Any]) -> str:
    """The table of all models' figures, with intervals."""
    models = [(key, title) for key, title in _MODELS if key in evaluation]
    names = list(evaluation["baseline"]["metrics"])
    lines = [f"  {'':<14}" + "".join(f"{title:>26}" for _, title in models)]
    for name in names:
        cells = "".join(
            f"{_figure(evaluation[key]['metrics'][name], signed=key == 'delta'):>26}" for key, _ in models
        )
        mark = "*" if name == evaluation["primaryMetric"] else " "
        lines.append(f"{mark} {name:<14}{cells}")
    lines.append(f"  on {evaluation['rows']} test rows; [ ] 95 % bootstrap intervals; * decides")
    return "\n".join(lines)


def _figure(figure: dict[str, float], *, signed: bool) -> str:
    """A value and its interval, in three decimals, or none where it is large."""
    how = ("+" if signed else "") + (".3f" if max(map(abs, figure.values())) < _LARGE else ",.0f")
    return f"{figure['value']:{how}} [{figure['low']:{how}}, {figure['high']:{how}}]"


def verdict(evaluation: dict[str, Any]) -> str:
    """What the primary metric says, in a sentence, better or worse."""
    metric = evaluation["primaryMetric"]
    figure = evaluation["delta"]["metrics"][metric]
    span = f"[{figure['low']:+.3f}, {figure['high']:+.3f}]"
    if figure["low"] > 0 or figure["high"] < 0:
        beats = (figure["value"] > 0) is HIGHER_IS_BETTER[metric]
        word = "beats" if beats else "is worse than"
        return f"The tuned model {word} the base model by {figure['value']:+.3f} {metric} {span}."
    return f"Tuned and base model differ by {figure['value']:+.3f} {metric} {span}: that may be luck."


_MODELS = (
    ("majority", "majority class"),
    ("baseline", "base model"),
    ("tuned", "tuned"),
    ("delta", "tuned - base"),
)
