"""Every query of every panel, recording rule and alert returns data on a real Prometheus."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.promql import events
from tests.monitoring import world
from tests.monitoring.prometheus import program, prometheus
from tests.monitoring.queries import (
    Asked,
    QueryError,
    Window,
    ask,
    check,
    documents,
    empty,
    queries,
    series,
)

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/finetune-operator/files/alerts.yaml"
VARIABLES = {"namespace": "team-nlp", "job": "ticket-router"}
BEGIN = world.START.timestamp()
WINDOW = Window(BEGIN + 60, BEGIN + 60 * world.MINUTES)
LOOKBACK = "90s"
"""Backfilled series have no marks of their end; a sample a minute is enough."""
ALERTING = {
    "FineTuneCleanupFailed",
    "FineTuneGpusIdle",
    "FineTuneJobWaits",
    "FineTuneNodeSuspicious",
}
"""Alerts whose condition holds at some time in the simulated hours."""
SCRAPES = 60
SCRAPED = "4s"
"""Range of rates over scraped series, in which there are many scrapes."""


def run_world(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "tests.monitoring.world", *arguments]


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with the simulated hours."""
    folder = tmp_path_factory.mktemp("prometheus")
    file = folder / "world.om"
    subprocess.run(run_world(file), cwd=ROOT, check=True, timeout=300)
    create = ("tsdb", "create-blocks-from", "openmetrics", file, folder / "data")
    subprocess.run([program("promtool"), *create], check=True, capture_output=True, timeout=120)
    with prometheus(folder, {}, lookback=LOOKBACK) as url:
        range_of = (f"--start={round(WINDOW.start)}", f"--end={round(WINDOW.end)}", f"--url={url}")
        record = ("tsdb", "create-blocks-from", "rules", *range_of, f"--output-dir={folder / 'data'}", RULES)
        subprocess.run([program("promtool"), *record], check=True, capture_output=True, timeout=120)
    with prometheus(folder, {}, lookback=LOOKBACK) as url:
        yield url


@pytest.fixture(scope="module")
def found(backfilled: str) -> dict[Asked, int]:
    return check(backfilled, VARIABLES, WINDOW, queries(documents()), nonzero=True)


@pytest.mark.parametrize(
    "asked", queries(documents()), ids=lambda one: f"{one.dashboard}: {one.panel} {one.ref}"
)
def test_a_query_returns_data(found: dict[Asked, int], asked: Asked) -> None:
    assert found[asked], asked.expr


RULE_LIST = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
RECORDS = [rule["record"] for rule in RULE_LIST if "record" in rule]


@pytest.mark.parametrize("record", RECORDS)
def test_a_recording_rule_records_data(backfilled: str, record: str) -> None:
    assert series(backfilled, record, WINDOW, nonzero=True)


@pytest.mark.parametrize(
    "rule", [rule for rule in RULE_LIST if "alert" in rule], ids=lambda rule: str(rule["alert"])
)
def test_the_condition_of_an_alert_is_evaluated(backfilled: str, rule: dict[str, Any]) -> None:
    assert bool(series(backfilled, rule["expr"], WINDOW)) == (rule["alert"] in ALERTING)


def test_a_query_with_an_unknown_metric_or_an_error_is_found(backfilled: str) -> None:
    unknown = Asked("job", "panel", "A", "finetune_unknown", optional=False)
    assert empty(check(backfilled, VARIABLES, WINDOW, [unknown])) == ["job: panel A: finetune_unknown"]
    assert not empty({Asked("job", "panel", "A", "finetune_unknown", optional=True): 0})
    with pytest.raises(QueryError, match="parse error"):
        series(backfilled, "sum(", WINDOW)


def value(url: str, expr: str, minute: int) -> float:
    (one,) = ask(url, "query", query=expr, time=BEGIN + 60 * minute)["result"]
    return float(one["value"][1])


def test_events_are_counted_from_the_first_event(backfilled: str) -> None:
    """increase() alone misses the first event of each series."""
    failed = events("finetune_attempts_total", "node", 'outcome="Failed",node="gpu-b2"', window="5h")
    assert value(backfilled, failed, world.MINUTES) == 4
    succeeded = events("finetune_attempts_total", "", 'outcome="Succeeded"', window="5h")
    ended = [a for script in world.SCRIPTS for a in world.plan(script) if not a.what.failure]
    expected = sum(attempt.end <= world.MINUTES for attempt in ended)
    assert value(backfilled, succeeded, world.MINUTES) == expected
    recent = events("finetune_attempts_total", "", 'outcome="Succeeded"', window="1h")
    expected = sum(60 < attempt.end <= 120 for attempt in ended)
    assert value(backfilled, recent, 120) == pytest.approx(expected, abs=0.2)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Window]]:
    """The address of a Prometheus that scrapes the real endpoints, and the time range of its samples."""
    folder = tmp_path_factory.mktemp("scraping")
    serving = subprocess.Popen(
        run_world("serve"), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout is not None
    assert serving.stdin is not None
    try:
        ports = json.loads(serving.stdout.readline())

        def job(name: str, *of: int) -> dict[str, Any]:
            targets = [f"127.0.0.1:{port}" for port in of]
            return {"job_name": name, "honor_labels": True, "static_configs": [{"targets": targets}]}

        config = {
            "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
            "scrape_configs": [
                job("finetune-operator", ports["operator"]),
                job("trainers", *ports["trainers"]),
            ],
        }
        with prometheus(folder, config) as url:
            times = scrape_times(url)
            yield url, Window(times[0], times[-1], SCRAPED)
    finally:
        serving.stdin.close()
        serving.wait(30)
        serving.stdout.close()


def scrape_times(url: str) -> list[float]:
    """The times of SCRAPES scrapes of the operator. Prometheus answers when it has the newest samples."""
    while True:
        result = ask(url, "query", query='up{job="finetune-operator"}[10m]')["result"]
        times = [float(at) for one in result for at, up in one["values"] if up == "1"]
        if len(times) >= SCRAPES:
            return times


def test_queries_return_data_of_scraped_endpoints(scraped: tuple[str, Window]) -> None:
    url, window = scraped
    assert empty(check(url, VARIABLES, window, queries(documents()))) == []
