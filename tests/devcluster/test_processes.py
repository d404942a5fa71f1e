import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devcluster import processes
from devcluster.places import DevclusterError

ROOT = Path(__file__).parents[2]


def eventually(reached: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_an_owned_program_ends_when_its_owner_is_killed() -> None:
    owner = "import time; from pathlib import Path; from devcluster import processes\n"
    owner += (
        "print(processes.start_owned(['sleep', '600'], Path('/dev/null')).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        owned = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not is_alive(owned))


def test_a_marked_program_is_found_by_its_mark_and_its_end_seen(tmp_path: Path) -> None:
    mark = f"DEVCLUSTER_STATE={tmp_path}"
    processes.start_marked(["sleep", "600"], tmp_path / "log", mark)
    eventually(lambda: list(processes.marked(mark).values()) == [["sleep", "600"]])
    assert processes.marked(f"{mark}/other") == {}
    processes.kill(processes.marked(mark))
    eventually(lambda: processes.marked(mark) == {})


def test_killing_what_has_ended_is_no_error() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    processes.kill([process.pid])


def test_a_program_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    process = processes.start_owned(["sh", "-c", "echo no such data; exit 3"], log)
    with pytest.raises(DevclusterError, match=r"broken ended with 3(?s:.*)no such data"):
        processes.await_answer(lambda: False, process, log)


def test_a_program_that_does_not_answer_is_told(tmp_path: Path) -> None:
    log = tmp_path / "idle.log"
    process = processes.start_owned(["sleep", "600"], log)
    with pytest.raises(DevclusterError, match="idle did not answer"):
        processes.await_answer(lambda: False, process, log, seconds=0.2)
    processes.end_owned(process)
    assert not is_alive(process.pid)
