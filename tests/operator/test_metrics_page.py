"""docs/metrics.md lists every metric of operator and trainer, and the names follow the conventions.

`FINETUNE_REGENERATE=1 pytest tests/operator/test_metrics_page.py` writes the page. A metric that the page
already lists keeps its version in the column `since`; a new metric gets the version of pyproject.toml.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, Histogram
from prometheus_client.metrics import MetricWrapperBase

from finetune_operator.runtime import metrics
from finetune_operator.settings import MetricsSettings
from finetune_trainer.contract import gauges

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/metrics.md"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
HEAD = """# Metrics

This page is generated from the code (`tests/operator/test_metrics_page.py`). Names follow the conventions of
Prometheus: base units, and the suffixes `_total`, `_seconds`, `_ratio`, `_timestamp_seconds` and `_info`. The
name of a FineTuneJob is the label `finetunejob`, because Prometheus itself sets the label `job`. The column
`since` is the version that introduced the metric.

"""
SECTIONS = {
    "operator": """## The work of the operator

Every replica of the operator serves these metrics at `/metrics` on port 8080.
""",
    "runs": """## Runs over time

Counters and histograms of the leader. They count from the start of the process, so use `rate()` and
`increase()`. A milestone is counted after the operator has written the status that shows the milestone. The
label `reason` has at most 200 values; further reasons count as `Other`.
""",
    "jobs": """## Existing jobs

Gauges that a scrape computes from the FineTuneJobs. The settings `metrics.perJob`, `metrics.maxJobs` and
`metrics.finishedSeconds` limit the number of series.
""",
    "trainer": """## Trainer pods

Gauges of the progress of a running stage. The operator serves the newest answer of the pod with index 0. If
the setting `metrics.scrapeNamespaces` names a namespace, the pods serve these gauges instead, at `/metrics`
on port 8080. A gauge without a value is absent. The series end with the pod.
""",
}


@dataclass(frozen=True)
class Line:
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def of_process() -> Iterator[tuple[str, Line]]:
    """The metrics that are objects of prometheus_client."""
    runs = set(map(id, metrics.MILESTONES.values()))
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    for metric in (*found, *metrics.MILESTONES.values()):
        (family,) = metric.describe()
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ("version", "python") if family.type == "info" else metric._labelnames
        line = Line(family.name + suffix, family.type, tuple(labels), family.documentation)
        yield "runs" if id(metric) in runs else "operator", line


def of_jobs() -> Iterator[tuple[str, Line]]:
    collector = metrics.JobCollector(
        list, lambda _: (), lambda _: None, lambda: datetime.now(UTC), MetricsSettings()
    )
    trainer = {gauge.name for gauge in gauges.GAUGES}
    for family in collector.describe():
        labels = tuple(family._labelnames)
        if family.name not in trainer:
            yield "jobs", Line(family.name, family.type, labels, family.documentation)


def of_trainer() -> Iterator[tuple[str, Line]]:
    for gauge in gauges.GAUGES:
        yield "trainer", Line(gauge.name, "gauge", gauges.GAUGE_LABELS, gauge.text)


LINES = [*of_process(), *of_jobs(), *of_trainer()]


def versions(text: str) -> dict[str, str]:
    """The column `since` of a page, by the name of the metric."""
    return dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+\.\d+\.\d+) \|$", text, flags=re.MULTILINE))


def row(line: Line, since: str) -> str:
    labels = ", ".join(f"`{label}`" for label in line.labels)
    return f"| `{line.name}` | {line.kind} | {labels} | {line.text} | {since} |\n"


def page() -> str:
    parts, since = [], versions(PAGE.read_text())
    for section, text in SECTIONS.items():
        lines = sorted((line for of, line in LINES if of == section), key=lambda line: line.name)
        head = "\n| name | type | labels | meaning | since |\n|---|---|---|---|---|\n"
        parts.append(text + head + "".join(row(line, since.get(line.name, VERSION)) for line in lines))
    return HEAD + "\n".join(parts)


def test_the_page_is_fresh() -> None:
    if os.environ.get("FINETUNE_REGENERATE"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_no_metric_comes_from_a_later_version() -> None:
    def number(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    since = versions(PAGE.read_text())
    assert {line.name for _, line in LINES} == since.keys()
    assert all(number(version) <= number(VERSION) for version in since.values())


@pytest.mark.parametrize("line", [line for _, line in LINES], ids=lambda line: line.name)
def test_names_follow_the_conventions(line: Line) -> None:
    assert line.name.startswith("finetune_")
    assert "job" not in line.labels
    assert line.text.endswith(".")
    assert not line.name.endswith(("_percent", "_minutes", "_milliseconds"))
    if line.kind == "counter":
        assert line.name.endswith("_total")
    if line.kind == "histogram":
        assert line.name.endswith("_seconds")


def test_all_metrics_of_the_process_are_on_the_page() -> None:
    names = {name for name in REGISTRY._names_to_collectors if name.startswith("finetune_")}
    listed = {line.name for section, line in LINES if section in {"operator", "runs"}}
    histograms = {line.name for _, line in LINES if line.kind == Histogram._type}
    suffixes = ("_bucket", "_count", "_sum", "_created")
    missing = {
        name
        for name in names - listed
        if f"{name}_total" not in listed
        and f"{name}_info" not in listed
        and not (name.endswith("_created") and f"{name.removesuffix('_created')}_total" in listed)
        and not any(name == f"{histogram}{suffix}" for histogram in histograms for suffix in suffixes)
    }
    assert missing == set()
