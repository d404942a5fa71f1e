"""Trains with each start of the head and each weighting of the classes: `python -m bench.head_init`.

Prints a table of accuracy and macro F1 on test rows, mean and range over the seeds. Each training starts
from the same base model (all-MiniLM-L6-v2); the seed draws the rows, the random head, dropout and order.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from bench.head_init.datasets import SETS, Rows, drawn
from bench.machine import this_machine
from examples.fetch_minilm import fetch
from examples.packages import cache_folder
from finetune_trainer.config import ClassWeights
from finetune_trainer.models.class_layer import find_class_layer
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.logistic_regression import SINGLE_PROCESS
from finetune_trainer.models.weights import overwrite
from finetune_trainer.tasks.text_classification.class_weights import class_weights
from finetune_trainer.tasks.text_classification.classifier import classify, load_classifier
from finetune_trainer.tasks.text_classification.head_start import bypass_layer
from finetune_trainer.tasks.text_classification.metrics import measure
from finetune_trainer.tasks.text_classification.probe import fit_linear_probe

RESULTS = Path(__file__).parents[1] / "results" / "head_init.json"
CASES: tuple[tuple[str, ClassWeights], ...] = (
    ("Random", "None"),
    ("LinearProbe", "None"),
    ("LinearProbe", "Balanced"),
    ("LinearProbe", "SquareRoot"),
)
EVEN = ("debian-sections",)
"""Sets whose classes are so even that weights change nothing: measured without weights alone."""
AT_ONCE = 64


def batch(ids: list[list[int]], chosen: Any) -> dict[str, torch.Tensor]:
    """Padded rows as the model's inputs."""
    rows = [torch.tensor(ids[number]) for number in chosen]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": tokens, "attention_mask": mask}


@torch.no_grad()
def outputs(model: torch.nn.Module, ids: list[list[int]]) -> np.ndarray:
    """The model's logits for all rows, shape [rows, width]."""
    model.eval()
    order = np.argsort([len(row) for row in ids])
    parts = [
        classify(model, batch(ids, order[at : at + AT_ONCE])).numpy() for at in range(0, len(ids), AT_ONCE)
    ]
    values = np.concatenate(parts)
    back = np.empty_like(values)
    back[order] = values
    return back


def trained(
    base: Path, rows: Rows, start: str, kind: ClassWeights, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Accuracy and macro F1 on the test rows after one training."""
    began = time.process_time()
    tokenizer, labels = AutoTokenizer.from_pretrained(base), rows.labels
    splits = {}
    for split in ("train", "validation", "test"):
        texts, names = zip(*getattr(rows, split), strict=True)
        ids = tokenizer(list(texts), truncation=True, max_length=options.length)["input_ids"]
        splits[split] = ids, np.array([labels.index(name) for name in names])
    (ids, truth), validation, test = splits["train"], splits["validation"], splits["test"]
    weights = class_weights(kind, truth, len(labels))
    set_seed(seed)
    model = load_classifier(base, labels, torch.float32)
    figures: dict[str, Any] = {}
    if start == "LinearProbe":
        layer = find_class_layer(model)
        assert layer  # noqa: S101 - a BERT has one
        with bypass_layer(model, layer):
            known, held_out, unseen = (outputs(model, part) for part in (ids, validation[0], test[0]))
        probe = fit_linear_probe(
            (known, truth),
            (held_out, validation[1]),
            classes=len(labels),
            metric="macroF1",
            peers=SINGLE_PROCESS,
            class_weights=weights,
        )
        overwrite(model, {f"{layer}.weight": probe.classifier.weight, f"{layer}.bias": probe.classifier.bias})
        answers = probe.classifier.predict(torch.from_numpy(unseen)).numpy()
        figures["probe"] = {"strength": probe.strength, **measure(test[1], answers, len(labels))}
    steps = -(-len(ids) // options.batch) * options.epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
    schedule: Any = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)  # type: ignore[no-untyped-call]
    factors = None if weights is None else torch.from_numpy(weights).float()
    shuffled = np.random.default_rng(seed)
    for _ in range(options.epochs):
        model.train()
        order = shuffled.permutation(len(ids))
        for at in range(0, len(ids), options.batch):
            chosen = order[at : at + options.batch]
            targets = torch.from_numpy(truth[chosen])
            losses = cross_entropy(model(**batch(ids, chosen)).logits, targets, reduction="none")
            loss = losses.mean() if factors is None else (losses * factors[targets]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    figures |= measure(test[1], outputs(model, test[0]).argmax(1), len(labels))
    return {**figures, "cpu_seconds": round(time.process_time() - began, 1)}


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """The results as Markdown: mean (lowest to highest) over the seeds."""
    yield "| data | labels | rows | headInit | classWeights | accuracy | macro F1 | macro F1 of the probe |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        key = tuple(result[name] for name in ("data", "start", "weights"))
        groups.setdefault(key, []).append(result)
    for (data, start, weights), each in groups.items():
        labels, rows = (_between([result[name] for result in each]) for name in ("labels", "rows"))
        cells = [_mean([result[name] for result in each]) for name in ("accuracy", "macroF1")]
        probe = _mean([result["probe"]["macroF1"] for result in each]) if start == "LinearProbe" else ""
        yield f"| {data} | {labels} | {rows} | {start} | {weights} | {' | '.join(cells)} | {probe} |"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _between(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def main() -> None:
    """Runs all cases, seed after seed; the results of each training are kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=320, help="training rows")
    parser.add_argument("--validation", type=int, default=100)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--length", type=int, default=24, help="tokens; longer texts are cut")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    silence_libraries()
    os.nice(10)
    torch.set_num_threads(1)
    base = cache_folder().parent / "bench" / "minilm"
    fetch(base)
    results: list[dict[str, Any]] = []
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in range(1, options.seeds + 1):
        for data in options.data:
            rows = drawn(data, options.rows, options.validation, options.test, seed)
            for start, weights in CASES[:2] if data in EVEN else CASES:
                figures = trained(base, rows, start, weights, seed, options)
                known = {"data": data, "seed": seed, "labels": len(rows.labels), "rows": len(rows.train)}
                results.append({**known, "start": start, "weights": weights, **figures})
                print(json.dumps(results[-1]), flush=True)
                document = {"machine": str(this_machine()), "options": vars(options), "results": results}
                RESULTS.write_text(json.dumps(document, indent=1))
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
