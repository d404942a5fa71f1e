"""`make bench BENCH=rehearsal`: a job at the shape of Llama 3 8B on CPUs, with memory limits as the judge."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.machine import this_machine
from bench.rehearsal.job import make_spec, upload_model, upload_rows
from bench.shapes import SHAPES
from devcluster.places import DevclusterError
from devcluster.progress import say, step
from examples import demo

NAME, NAMESPACE, BUCKET = "rehearsal", "rehearsal", "rehearsal"
LLAMA_3_8B = SHAPES["llama-3-8b"]
RESULTS = Path(__file__).parents[1] / "results"
GIB = 2**30
LIMITS = {"Prepare": "4Gi", "Train": "11Gi", "Publish": "6Gi"}
"""The most memory of the pods of each stage."""
_LIMIT_SECONDS = 6 * 3600


def main() -> int:
    """Runs the job, and prints the table; 0 when the job succeeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.rehearsal", description=__doc__)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a row; default: %(default)s")
    parser.add_argument("--layers", type=int, default=LLAMA_3_8B.layers, help="default: %(default)s")
    parser.add_argument("--merge", action="store_true", help="publish a merged model instead of an adapter")
    given = parser.parse_args()
    shape = replace(LLAMA_3_8B, layers=given.layers)
    demo.LIMIT_SECONDS = _LIMIT_SECONDS
    try:
        target = demo.embedded()
        profile = {"cpuStages": {"cpu": "1800m", "memory": LIMITS["Prepare"]}, "maxMemory": LIMITS["Publish"]}
        settings = {"profiles": {"default": profile}, "deadlines": {"hang": 7200}}
        demo.install(
            target, *(f"--set-json=settings.{key}={json.dumps(value)}" for key, value in settings.items())
        )
        job = _make_job(target, given.tokens, merge=given.merge)
        demo.prepare_namespace(target, job)
        store = demo.client(target.store)
        if not store.bucket_exists(BUCKET):
            store.make_bucket(BUCKET)
        with step("uploading the model and the rows"):
            upload_model(store, BUCKET, "model", shape)
            upload_rows(store, BUCKET, "rows", given.tokens)
        demo.forget(target, job)
        demo.kubectl(target, "apply", "-f", "-", given=job)
        began = time.monotonic()
        finished = demo.watch(target, job)
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    status = finished["status"]
    seconds = time.monotonic() - began
    print(f"\n{this_machine()}. {shape.layers} layers, {given.tokens} tokens, {seconds:.0f} s.\n")
    print("\n".join(format_table(status)))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rehearsal.json").write_text(json.dumps(status, indent=1))
    if demo.condition(finished, "Succeeded") != "True":
        say(f"error: {status.get('message')}")
        return 1
    return 0


def format_table(status: dict[str, Any]) -> Iterator[str]:
    """Formats estimated and measured memory, and the seconds of each attempt, as lines of Markdown.

    Args:
        status: status of the finished job.
    """
    estimates = status.get("memory", {})
    yield "| stage | limit | estimated GiB | measured GiB | seconds | outcome |"
    yield "|---|---|---|---|---|---|"
    for attempt in status["attempts"]:
        stage = attempt["stage"]
        begin, end = (datetime.fromisoformat(attempt[key]) for key in ("startTime", "endTime"))
        cells = (
            *(stage, LIMITS[stage]),
            *map(_gib, (estimates.get(stage.lower()), attempt.get("peakMemoryBytes"))),
            *(f"{(end - begin).total_seconds():.0f}", attempt["outcome"]),
        )
        yield f"| {' | '.join(cells)} |"


def _make_job(target: demo.Target, tokens: int, *, merge: bool) -> dict[str, Any]:
    spec = make_spec(BUCKET, "model", "rows", tokens, LIMITS["Train"], "900m")
    spec["output"] = {"uri": f"s3://{BUCKET}/tuned/", "suffix": "v1", "mergeAdapter": merge}
    spec["storage"] = {
        "endpoint": target.store.endpoint_in_cluster,
        "secretRef": {"name": "s3"},
        "caBundleRef": {"name": "storage-ca"},
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": spec,
    }


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


if __name__ == "__main__":
    sys.exit(main())
