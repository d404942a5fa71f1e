"""Whether it was worth it, in a sentence: the first thing on the page. Pure."""

from typing import Literal

from finetune_trainer.contract import HIGHER_IS_BETTER, TITLES, Evaluation, Interval, MetricName, Scores
from finetune_trainer.report import numbers
from finetune_trainer.report.markup import Html, code, foreign, paragraph, tag
from finetune_trainer.report.record import TrainingRecord, base_name

Outcome = Literal["better", "worse", "undecided", "equal", "untuned"]
_SIGNS: dict[Outcome, str] = {"better": "▲", "worse": "▼", "undecided": "≈", "equal": "=", "untuned": "-"}
_LONG = 300


def outcome(evaluation: Evaluation) -> Outcome:
    """What the primary metric says, as far as the test rows can tell."""
    if evaluation.tuned is None or evaluation.delta is None:
        return "untuned"
    return compared(evaluation.delta.metrics[evaluation.primary_metric], evaluation.primary_metric)


def compared(gain: Interval, metric: MetricName) -> Outcome:
    """What a difference says: nothing where its interval holds 0."""
    if gain.value == gain.low == gain.high == 0:
        return "equal"
    if gain.low <= 0 <= gain.high:
        return "undecided"
    return "better" if (gain.value > 0) is HIGHER_IS_BETTER[metric] else "worse"


def banner(record: TrainingRecord, kind: str, base: str) -> Html:
    """The verdict, what stands behind it, and the few numbers that matter.

    Args:
        record: what training measured.
        kind: what the model is.
        base: the base model's place.
    """
    evaluation, came_to = record.evaluation, outcome(record.evaluation)
    return tag(
        "header",
        tag("p", f"{kind}, fine-tuned from ", code(foreign(base, _LONG)), class_="kind"),
        tag(
            "h1",
            tag("span", _SIGNS[came_to], class_="sign", aria_hidden="true"),
            " ",
            headline(evaluation),
        ),
        paragraph(_explained(evaluation, came_to)),
        _tiles(record),
        class_=f"verdict {came_to}",
    )


def headline(evaluation: Evaluation) -> str:
    """The verdict in a sentence that stays true when tuning made things worse."""
    metric, baseline = evaluation.primary_metric, base_name(evaluation)
    name = TITLES[metric]
    before = numbers.measured(evaluation.baseline.metrics[metric].value)
    if evaluation.tuned is None:
        return f"Nothing was tuned: the {baseline} reaches {name} {before}."
    after = numbers.measured(evaluation.tuned.metrics[metric].value)
    match outcome(evaluation):
        case "better":
            return f"Better than the {baseline}: {name} {after} instead of {before}."
        case "worse":
            return f"Worse than the {baseline}: {name} {after} instead of {before}."
        case "equal":
            return f"Equal to the {baseline}: {name} {after} for both."
        case _:
            return f"No clear difference from the {baseline}: {name} {after} against {before}."


def _explained(evaluation: Evaluation, came_to: Outcome) -> str:
    rows = f"Measured on {numbers.plural(evaluation.rows, 'test row')} that nothing was trained or chosen on."
    if evaluation.delta is None:
        return rows
    gain = evaluation.delta.metrics[evaluation.primary_metric]
    ends = numbers.interval(gain, signed=True)
    difference = f"The difference is {numbers.measured(gain.value, signed=True)} (95 % interval {ends})"
    match came_to:
        case "equal":
            return f"{rows} Every answer counts the same for both."
        case "undecided":
            return (
                f"{rows} {difference}: the interval holds zero, so these test rows cannot tell which of the "
                "two is better. More test rows would narrow it."
            )
        case _:
            return f"{rows} {difference}: the draw of the test rows does not explain it."


def _tiles(record: TrainingRecord) -> Html:
    evaluation = record.evaluation
    scores = (
        ("this model", evaluation.tuned),
        (base_name(evaluation), evaluation.baseline),
        ("majority class", evaluation.majority),
    )
    tiles = [_score(name, of, evaluation.primary_metric) for name, of in scores if of is not None]
    rows = record.rows["train"]
    tiles.append(_tile("trained on", numbers.count(rows), "row" if rows == 1 else "rows"))
    took = numbers.duration(record.training_seconds)
    tiles.append(_tile("training took", took, f"{record.rows_per_second:,.1f} rows/s"))
    return tag("dl", *tiles, class_="tiles")


def _score(name: str, of: Scores, metric: MetricName) -> Html:
    value = of.metrics[metric]
    note = f"{TITLES[metric]} ({numbers.interval(value)})"
    return _tile(name, numbers.measured(value.value), note)


def _tile(name: str, value: str, note: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", tag("strong", value), tag("small", note)))
