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


def test_all_output_is_copied_and_the_last_lines_are_kept(tmp_path: Path) -> None:
    lines = [b"line %d\n" % number for number in range(1000)]
    tail, seen = passed_through(tmp_path, *lines)
    assert seen == b"".join(lines)
    assert tail.text().splitlines() == [f"line {number}" for number in range(1000 - KEPT_LINES, 1000)]


def test_a_line_without_end_is_kept_up_to_the_column_limit(tmp_path: Path) -> None:
    tail, seen = passed_through(tmp_path, *[b"." * 10_000] * 100)
    assert len(seen) == 1_000_000
    assert len(tail.text()) == KEPT_COLUMNS


def test_characters_that_control_terminals_are_escaped(tmp_path: Path) -> None:
    raw = b"\xff\x00\x1b[31m \xc2\x9b \xe2\x80\xae \xe2\x80\xa8 \xee\x80\x80 \xf3\xa0\x80\x81 \x7f\t\xc3\xa9"
    tail, seen = passed_through(tmp_path, raw + b"\n")
    assert tail.text() == r"\xff\x00\x1b[31m \x9b \u202e \u2028 \ue000 \U000e0001 \x7f" + "\t\u00e9"
    assert seen.decode() == tail.text() + "\n"


def test_a_character_split_across_chunks_is_decoded(tmp_path: Path) -> None:
    raw = "caf\u00e9 \u202e \U0001f600\n".encode()
    _, seen = passed_through(tmp_path, *(bytes([byte]) for byte in raw), b"\xc3")
    assert seen.decode() == "caf\u00e9 \\u202e \U0001f600\n\\xc3"


def test_a_carriage_return_becomes_a_line_end(tmp_path: Path) -> None:
    tail, seen = passed_through(tmp_path, b"10 %\r", b"20 %\r", b"\ndone\r\n")
    assert seen == b"10 %\n20 %\ndone\n"
    assert tail.text().splitlines() == ["10 %", "20 %", "done"]


def test_reading_goes_on_after_the_target_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    tail = LogTail(writer)
    for _ in range(100):
        os.write(tail.write_end, b"x" * 9999 + b"\n")
    os.write(tail.write_end, b"end\n")
    tail.close()
    os.close(writer)
    assert tail.text().endswith("end")


def test_close_does_not_wait_for_a_writer_beyond_its_time_limit() -> None:
    tail = LogTail(1)
    stays = os.dup(tail.write_end)
    tail.close(seconds=0.1)
    os.close(stays)
