"""`python -m bench.train_throughput.contender`: one trainer, which trains when it is its turn.

Arguments: who it is, the lesson, the folder of the model without dropout, and of how many rows the step is
that is compared. It writes JSON lines: that step; before each epoch `{}`, and waits for a line; after it its
seconds; at last what the training ended with.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from bench.train_throughput.lesson import Lesson, Outcome

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "trl")
Train = Callable[[Lesson, list[TrainerCallback]], Outcome]


class Turns(TrainerCallback):
    """Says how long each epoch took, and begins each only when it is told to."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self.say = say
        self.began = self.cpu_began = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Before the first batch is made."""
        self.say({})
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for this contender any more")
        self.began, self.cpu_began = time.monotonic(), time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """After the last step."""
        seconds, cpu_seconds = time.monotonic() - self.began, time.process_time() - self.cpu_began
        self.say({"seconds": seconds, "cpuSeconds": cpu_seconds, "steps": state.global_step})


def main() -> None:
    """Trains."""
    who, lesson, still, count = sys.argv[1], Lesson.read(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    # The libraries print too, and they shall not do it in between.
    predictions = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: Any) -> None:
        print(json.dumps(what), file=predictions, flush=True)

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    train: Train = import_module(f"bench.train_throughput.{who}").train
    step = train(lesson.one_still_step(still, count), [])
    versions = {name: metadata.version(name) for name in LIBRARIES if name in sys.modules}
    say({"still": asdict(step), "versions": versions})
    say(asdict(train(lesson, [Turns(say)])))


if __name__ == "__main__":
    main()
