"""IO: reads Parquet in a separate process with little memory: a malformed file can crash only that process.

Some hundred bytes can stand for gigabytes (one long value in many rows, a list of a billion nothings), and no
size that the file declares tells; a damaged file can crash the library that reads it.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finetune_trainer.data.compression import check_expansion
from finetune_trainer.data.parquet import open_parquet
from finetune_trainer.data.readers import MAX_ROW_CHARACTERS, BadRow, FileFaultError, Opened, Row, too_long

MEMORY_MIB = 1024
"""What reading a file may take; rows as long as they may be take a third."""
_WAY_OUT = "write it with smaller pages and shorter rows, or as JSON Lines"
Open = Callable[[Path, Collection[str]], Opened]
"""As open_parquet."""


@contextmanager
def parquet_process() -> Iterator[Open]:
    """Opens Parquet files, one at a time; the process starts with the first, and anew when one ended it."""
    process: subprocess.Popen[bytes] | None = None

    def opened(path: Path, wanted: Collection[str]) -> Opened:
        nonlocal process
        if process is None or process.poll() is not None:
            process = _started()
        assert process.stdin is not None  # noqa: S101 - for mypy
        process.stdin.write(json.dumps([str(path), sorted(wanted)]).encode() + b"\n")
        process.stdin.flush()
        answers = _answers(process)
        columns = next(answers)
        return Opened(map(_row, answers), tuple(columns), ())

    try:
        yield opened
    finally:
        if process is not None:
            _end(process)


def _started() -> subprocess.Popen[bytes]:
    # The system's allocator takes what it needs; the others reserve more than the limit.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    program = [sys.executable, "-m", "finetune_trainer.data.parquet_worker"]
    return subprocess.Popen(  # noqa: S603 - this very module
        program,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What a library says as it dies may quote the file.
        stderr=subprocess.DEVNULL,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


def _answers(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """What the process says about one file, the columns first; if that is not heard out, it ends."""
    assert process.stdout is not None  # noqa: S101 - for mypy
    whole = False
    try:
        while line := process.stdout.readline():
            answer = json.loads(line)
            whole = answer is None or isinstance(answer, str)
            if answer is None:
                return
            if isinstance(answer, str):
                raise FileFaultError(answer)
            yield answer
        raise FileFaultError(
            f"its Parquet is damaged, or needs more than {MEMORY_MIB:,} MiB of memory; {_WAY_OUT}"
        )
    finally:
        if not whole:
            _end(process)


def _row(answer: list[Any]) -> Row | BadRow:
    line, values, *reason = answer
    return BadRow(line, *reason) if reason else Row(line, values)


def _serve(asked: IO[bytes], told: IO[bytes]) -> None:
    """Answers each line that names a file with lines of JSON: columns, rows, then null or a fault's text."""
    taken = _address_space()
    for line in asked:
        name, wanted = json.loads(line)
        path = Path(name)
        _confine(taken + path.stat().st_size)
        try:
            for text in _said(path, wanted):
                told.write(text.encode("utf-8", errors="surrogatepass") + b"\n")
            end: str | None = None
        except FileFaultError as fault:
            end = str(fault)
        except MemoryError:
            end = f"its Parquet needs more than {MEMORY_MIB:,} MiB of memory; {_WAY_OUT}"
        except Exception as error:  # noqa: BLE001 - its text may quote the file, so that nobody may print it
            end = f"its Parquet cannot be read ({type(error).__name__})"
        told.write(json.dumps(end).encode() + b"\n")
        told.flush()


def _said(path: Path, wanted: Collection[str]) -> Iterator[str]:
    opened = open_parquet(path, wanted)
    yield json.dumps(opened.columns)
    size, given = path.stat().st_size, 0
    for row in opened.rows:
        text = _text(row)
        given += len(text)
        check_expansion(size, given, "Parquet", _WAY_OUT)
        yield text if len(text) <= MAX_ROW_CHARACTERS else _text(too_long(row.line))


def _text(row: Row | BadRow) -> str:
    said = [row.line, row.values] if isinstance(row, Row) else [row.line, None, row.reason, row.encoding]
    return json.dumps(said, ensure_ascii=False)


def _confine(address_space: int) -> None:
    """The file itself is mapped, not read, and counts as address space too."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = address_space + MEMORY_MIB * 1024 * 1024
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def _address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
