"""Runs torchrun and writes a JSON file with the exit code of each failed rank.

After any failure torchrun itself returns 1, and reports the exit codes of its ranks only as log text.
Usage: `python -m finetune_trainer.pod.agent FILE ARGUMENTS-OF-TORCHRUN`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: list[str]) -> int:
    """Runs torchrun and waits for its end.

    Args:
        arguments: the path of the report, then the arguments of torchrun.

    Returns:
        0 if all ranks exited with 0, else 1.
    """
    report = Path(arguments[0])
    try:
        run.main(arguments[1:])
    except ChildFailedError as error:
        deaths = [
            {"rank": rank, "code": failure.exitcode, "time": float(failure.timestamp)}
            for rank, failure in error.failures.items()
        ]
        _write(report, {"deaths": deaths})
    except Exception as error:  # noqa: BLE001 - the supervisor classifies the error
        _write(report, {"error": f"{type(error).__name__}: {error}"})
    else:
        return 0
    return 1


def _write(report: Path, document: dict[str, Any]) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    unfinished = report.with_suffix(".part")
    unfinished.write_text(json.dumps(document))
    unfinished.replace(report)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
