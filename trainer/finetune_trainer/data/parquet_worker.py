"""IO: reads Parquet in a subprocess with limited memory. A malformed file can crash only this subprocess.

A file of a few hundred bytes can expand to gigabytes (one long value in many rows, a list of a billion
nulls), and the sizes in the file do not reveal the expansion. A damaged file can also crash the library.
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
from finetune_trainer.data.file_rows import (
    MAX_ROW_CHARACTERS,
    BadRow,
    FileFaultError,
    OpenedFile,
    Row,
    too_long,
)
from finetune_trainer.data.parquet import open_parquet

MEMORY_MIB = 1024
"""Memory limit for reading a file; rows of the maximum length take a third."""
_ADVICE = "write it with smaller pages and shorter rows, or as JSON Lines"
Open = Callable[[Path, Collection[str]], OpenedFile]
"""The signature of open_parquet."""


@contextmanager
def parquet_process() -> Iterator[Open]:
    """Yields a function that opens Parquet files in a subprocess, one file at a time.

    The subprocess starts with the first file, and restarts after a crash.
    """
    process: subprocess.Popen[bytes] | None = None

    def open_file(path: Path, wanted: Collection[str]) -> OpenedFile:
        nonlocal process
        if process is None or process.poll() is not None:
            process = _start_process()
        assert process.stdin is not None  # noqa: S101 - for mypy
        process.stdin.write(json.dumps([str(path), sorted(wanted)]).encode() + b"\n")
        process.stdin.flush()
        responses = _read_responses(process)
        columns, total = next(responses)
        return OpenedFile(map(_parse_row, responses), tuple(columns), (), total_rows=total)

    try:
        yield open_file
    finally:
        if process is not None:
            _kill_process(process)


def _start_process() -> subprocess.Popen[bytes]:
    # The other allocators of Arrow reserve more address space than the limit.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    program = [sys.executable, "-m", "finetune_trainer.data.parquet_worker"]
    return subprocess.Popen(  # noqa: S603 - this very module
        program,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Messages of a crashing library can contain file data.
        stderr=subprocess.DEVNULL,
    )


def _kill_process(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


def _read_responses(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """Yields the responses for one file: first the columns with the number of rows, then the rows.

    The process is killed if the iteration stops before the last response.
    """
    assert process.stdout is not None  # noqa: S101 - for mypy
    complete = False
    try:
        while line := process.stdout.readline():
            response = json.loads(line)
            complete = response is None or isinstance(response, str)
            if response is None:
                return
            if isinstance(response, str):
                raise FileFaultError(response)
            yield response
        raise FileFaultError(
            f"its Parquet is damaged, or needs more than {MEMORY_MIB:,} MiB of memory; {_ADVICE}"
        )
    finally:
        if not complete:
            _kill_process(process)


def _parse_row(response: list[Any]) -> Row | BadRow:
    line, values, *reason = response
    return BadRow(line, *reason) if reason else Row(line, values)


def _serve_requests(requests: IO[bytes], responses: IO[bytes]) -> None:
    """Responds to each request with JSON lines: columns and number of rows, each row, null or a fault."""
    own_bytes = _mapped_bytes()
    for line in requests:
        name, wanted = json.loads(line)
        path = Path(name)
        _limit_address_space(own_bytes + path.stat().st_size)
        try:
            for text in _serialize_file(path, wanted):
                responses.write(text.encode("utf-8", errors="surrogatepass") + b"\n")
            end: str | None = None
        except FileFaultError as fault:
            end = str(fault)
        except MemoryError:
            end = f"its Parquet needs more than {MEMORY_MIB:,} MiB of memory; {_ADVICE}"
        except Exception as error:  # noqa: BLE001 - the message can contain file data and must not be printed
            end = f"its Parquet cannot be read ({type(error).__name__})"
        responses.write(json.dumps(end).encode() + b"\n")
        responses.flush()


def _serialize_file(path: Path, wanted: Collection[str]) -> Iterator[str]:
    open_file = open_parquet(path, wanted)
    yield json.dumps([open_file.columns, open_file.total_rows])
    file_size, size = path.stat().st_size, 0
    for row in open_file.rows:
        text = _serialize_row(row)
        size += len(text)
        check_expansion(file_size, size, "Parquet", _ADVICE)
        yield text if len(text) <= MAX_ROW_CHARACTERS else _serialize_row(too_long(row.line))


def _serialize_row(row: Row | BadRow) -> str:
    fields = [row.line, row.values] if isinstance(row, Row) else [row.line, None, row.reason, row.encoding]
    return json.dumps(fields, ensure_ascii=False)


def _limit_address_space(address_space: int) -> None:
    """Limits the address space to `address_space` bytes, which include the mapped file, plus MEMORY_MIB."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = address_space + MEMORY_MIB * 1024 * 1024
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def _mapped_bytes() -> int:
    """Returns the size of the address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve_requests(sys.stdin.buffer, sys.stdout.buffer)
