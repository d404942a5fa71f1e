import os
from pathlib import Path

from finetune_trainer.pod.logtail import KEPT_COLUMNS, KEPT_LINES, LogTail


def passed_through(tmp_path: Path, *chunks: bytes) -> tuple[LogTail, bytes]:
    target = tmp_path / "out"
    with target.open("wb") as sink:
        tail = LogTail(sink.fileno())
        for chunk in chunks:
            os.write(tail.write_end, chunk)
        tail.close()
    return tail, target.read_bytes()


def test_everything_passes_and_the_last_lines_stay(tmp_path: Path) -> None:
    lines = [b"line %d\n" % number for number in range(1000)]
    tail, seen = passed_through(tmp_path, *lines)
    assert seen == b"".join(lines)
    assert tail.text().splitlines() == [f"line {number}" for number in range(1000 - KEPT_LINES, 1000)]


def test_a_line_without_end_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    tail, seen = passed_through(tmp_path, *[b"." * 10_000] * 100)
    assert len(seen) == 1_000_000
    assert len(tail.text()) == KEPT_COLUMNS


def test_bytes_that_are_no_text_are_kept_readable(tmp_path: Path) -> None:
    tail, seen = passed_through(tmp_path, b"\xff\x00\n")
    assert seen == b"\xff\x00\n"
    assert tail.text() == "\ufffd\x00"


def test_a_closed_target_does_not_stop_the_reading() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    tail = LogTail(writer)
    for _ in range(100):
        os.write(tail.write_end, b"x" * 9999 + b"\n")
    os.write(tail.write_end, b"end\n")
    tail.close()
    os.close(writer)
    assert tail.text().endswith("end")


def test_a_writer_that_stays_does_not_hold_up_the_close() -> None:
    tail = LogTail(1)
    stays = os.dup(tail.write_end)
    tail.close(seconds=0.1)
    os.close(stays)
