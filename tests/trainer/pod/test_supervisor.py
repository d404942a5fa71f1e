import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    ModelSource,
    Rendezvous,
    Run,
    StoreAccess,
    Stores,
    TrainConfig,
    TrainSplit,
    World,
)
from finetune_trainer.contract import FailureClass, RankFile, Stage, TerminationMessage, signatures
from finetune_trainer.paths import Paths
from finetune_trainer.pod.processes import descendants

NOWHERE = StoreAccess(endpoint="http://127.0.0.1:1")
PATIENCE = 90.0
PAIR = World(nodes=1, processes_per_node=2)


def make_config(stage: Stage = Stage.PREPARE, world: World | None = None, **more: object) -> TrainConfig:
    run = Run(
        task="TextClassification",
        model=ModelSource(uri="s3://models/minilm/"),
        dataset=Dataset(
            train=TrainSplit(uri="s3://data/train.jsonl"),
            validation=HeldOut(split=0.1),
            test=HeldOut(uri="s3://data/test.jsonl"),
        ),
        world=world or World(),
        evaluation=EvaluationSpec(metrics=("accuracy",)),
        output="s3://models/out/",
        runs="s3://models/.finetune-runs/team/u-1/",
        stores=Stores(data=NOWHERE, model=NOWHERE, output=NOWHERE),
    )
    job = JobRef(namespace="team", name="tickets", uid="u-1", generation=1)
    return TrainConfig(stage=stage, attempt=2, job=job, run=run).model_copy(update=more)


def make_train_config(
    seconds: int = 60, host: str = "127.0.0.1", world: World = PAIR, **more: object
) -> TrainConfig:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rendezvous = Rendezvous(master_address=host, master_port=port, startup_deadline_seconds=seconds)
    return make_config(Stage.TRAIN, world, rendezvous=rendezvous, **more)


def write_config(root: Path, config: TrainConfig) -> None:
    file = Paths(root).config
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.model_dump_json(by_alias=True))


@dataclass
class Pod:
    """A supervisor process with a root folder of its own."""

    paths: Paths
    process: subprocess.Popen[bytes]
    output: Path

    def message(self) -> TerminationMessage:
        return TerminationMessage.decode(self.paths.termination_log.read_bytes())

    def ending(self) -> tuple[int, FailureClass, str]:
        """Waits for the end of the supervisor; returns exit code, class and reason."""
        code = self.process.wait(PATIENCE)
        return code, self.message().failure, self.message().reason

    def log(self) -> str:
        return self.output.read_text()

    def rank_file(self, rank: int) -> RankFile:
        return RankFile.model_validate_json((self.paths.ranks / f"{rank}.json").read_bytes())

    def until_working(self, *ranks: int) -> None:
        """Waits until these ranks have reported a step."""
        until(lambda: all(self._step(rank) for rank in ranks))

    def _step(self, rank: int) -> int | None:
        try:
            return self.rank_file(rank).step
        except FileNotFoundError:
            return None


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("behaviour", "ending"),
    [
        ("succeed", (0, FailureClass.SUCCESS, "Done")),
        ("storage", (5, FailureClass.STORAGE, "StorageDenied")),
        ("memory", (4, FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")),
        ("peer", (7, FailureClass.COMMUNICATION, "PeerLost")),
        ("bug", (10, FailureClass.INTERNAL, "UnexpectedError")),
        ("exit-0", (10, FailureClass.INTERNAL, "ResultMissing")),
        ("exit-1", (10, FailureClass.INTERNAL, "RankExited")),
        ("exit-7", (7, FailureClass.COMMUNICATION, "RankExited")),
        ("kill", (10, FailureClass.INTERNAL, "RankKilled")),
        ("crash", (10, FailureClass.INTERNAL, "RankCrashed")),
        ("terminate", (7, FailureClass.COMMUNICATION, "PeerLost")),
    ],
)
def test_a_stage_of_one_process_ends_with_exit_code_class_and_reason(
    start: Callable[..., Pod], behaviour: str, ending: tuple[int, FailureClass, str]
) -> None:
    pod = start(make_config(), f"0={behaviour}")
    assert pod.ending() == ending


def test_the_message_has_stage_attempt_step_and_config_digest(start: Callable[..., Pod]) -> None:
    config = make_config()
    pod = start(config, "0=succeed")
    pod.ending()
    message = pod.message()
    assert (message.stage, message.attempt, message.step) == (Stage.PREPARE, 2, 7)
    assert message.config_digest == config.run.digest()
    assert message.message == "scripted and done"


def test_the_log_has_the_traceback_and_the_message_has_one_line(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=bug")
    pod.ending()
    assert "Traceback (most recent call last)" in pod.log()
    assert pod.message().message.startswith("KeyError (")
    assert "\n" not in pod.message().message


@pytest.mark.parametrize(
    ("behaviour", "place"),
    [("bug", r"pod/rank\.py:\d+"), ("storage", r"pod/rank\.py:\d+"), ("crash", "Starting")],
)
def test_the_message_has_the_place_of_the_failure(
    start: Callable[..., Pod], behaviour: str, place: str
) -> None:
    pod = start(make_config(), f"0={behaviour}")
    pod.ending()
    found = pod.message().place
    assert found
    assert re.fullmatch(place, found)


def test_a_success_has_no_place(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=succeed")
    pod.ending()
    assert pod.message().place is None


def test_an_unusable_config_leaves_a_termination_message(start: Callable[..., Pod]) -> None:
    pod = start(make_config(contract_version="2.0"), "0=succeed")
    assert pod.ending() == (2, FailureClass.USER_CONFIG, "ConfigInvalid")
    assert "2.0" in pod.message().message
    assert (pod.message().stage, pod.message().attempt) == (Stage.PREPARE, 2)


def test_the_supervisor_copies_a_million_lines_of_a_rank(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=chatter")
    assert pod.ending()[0] == 0
    lines = [line for line in pod.log().splitlines() if line.startswith("line ")]
    assert len(lines) == 1_000_000
    assert lines[-1] == "line 999999"


def test_an_orphan_of_a_rank_is_killed_and_does_not_delay_the_exit(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=leave-a-child")
    assert pod.ending()[0] == 0
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(pod.paths.root) in _text(path)]
    assert left == []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_failed_pod_writes_the_end_of_its_log_and_the_full_error(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=bug")
    pod.ending()
    assert (pod.paths.scratch / "log-tail.txt").read_text().endswith("\nKeyError")
    assert (pod.paths.errors / "0.txt").read_text().endswith("\nKeyError: 'labels'\n")


def test_progress_is_served_while_the_stage_runs(start: Callable[..., Pod]) -> None:
    pod = start(make_config(Stage.PREPARE, serve_metrics=True), "0=deaf")
    pod.until_working(0)
    port = pod.log().partition("progress on port ")[2].split()[0]
    nonce = signatures.draw_nonce()
    headers = {"Finetune-Nonce": nonce, "Finetune-Signature": signatures.sign_request("a key", nonce)}
    with urlopen(Request(f"http://127.0.0.1:{port}/progress", headers=headers)) as answer:
        progress = json.load(answer)
    assert (progress["stage"], progress["attempt"], progress["activity"]) == ("Prepare", 2, "Training")
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = answer.read().decode()
    labels = '{namespace="team",finetunejob="tickets",attempt="2",stage="Prepare"}'
    assert f"finetune_trainer_step{labels} 1\n" in metrics


def test_a_hang_is_detected_and_stacks_are_written(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=hang")
    assert pod.ending() == (9, FailureClass.HANG, "RankSilent")
    assert pod.message().message == "No heartbeat from rank 0 for 2 s while Evaluating."
    assert "in hang" in (pod.paths.stacks / "0.txt").read_text()


def test_a_stopped_process_counts_as_a_hang(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=freeze")
    assert pod.ending() == (9, FailureClass.HANG, "RankSilent")
    assert "the process of the rank is stopped" in pod.message().message
    assert "state T" in (pod.paths.stacks / "states.txt").read_text()


def test_a_stage_of_one_process_ends_at_once_after_sigterm(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=work", SAVE_SECONDS="3600")
    pod.until_working(0)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "Preempted")
    assert not (pod.paths.scratch / "saved-0").exists()


def test_a_rank_without_a_rank_file_is_killed_after_sigterm(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=never-start")
    until(lambda: descendants(pod.process.pid))
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "NothingToSave")


def test_a_rank_that_ignores_the_request_to_end_is_killed_after_the_grace_period(
    start: Callable[..., Pod],
) -> None:
    pod = start(make_config(preemption_grace_seconds=4), "0=deaf")
    pod.until_working(0)
    sent = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "GraceOver")
    assert 3 <= time.monotonic() - sent < 8


def test_a_second_sigterm_stops_the_pod_at_once(start: Callable[..., Pod]) -> None:
    pod = start(make_config(), "0=deaf")
    pod.until_working(0)
    pod.process.send_signal(signal.SIGTERM)
    until(lambda: "received SIGTERM" in pod.log())
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "ToldTwice")


def test_an_oom_kill_is_distinguished_from_another_sigkill(
    start: Callable[..., Pod], memory_limit: Path
) -> None:
    join = 'echo $$ > "$0" && exec "$@"'
    pod = start(make_config(), "0=allocate", "sh", "-c", join, str(memory_limit / "cgroup.procs"))
    assert pod.ending() == (4, FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")


@pytest.fixture
def memory_limit() -> Iterator[Path]:
    """A new memory control group with a limit of 200 MiB."""
    first = Path("/sys/fs/cgroup/memory")
    version_1 = (first / "memory.limit_in_bytes").exists()
    group = (first if version_1 else Path("/sys/fs/cgroup")) / f"finetune-test-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text("200M")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_the_supervisor_works_as_pid_1(start: Callable[..., Pod]) -> None:
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    pod = start(make_config(), "0=work", *alone)
    until(lambda: (pod.paths.ranks / "0.json").exists() and pod.rank_file(0).step)
    supervisor = next(iter(_children(pod.process.pid)))
    assert pod.rank_file(0).pid < 10
    os.kill(supervisor, signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "Preempted")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_processes_under_torchrun_succeed(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(), "0=succeed,1=succeed")
    assert pod.ending() == (0, FailureClass.SUCCESS, "Done")


def test_an_exit_with_code_7_of_one_rank_is_a_communication_failure(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(), "0=work,1=exit-7")
    assert pod.ending() == (7, FailureClass.COMMUNICATION, "RankExited")
    assert pod.message().message == "Rank 1 exited with code 7 and recorded no cause."


def test_sigkill_of_one_rank_ends_a_gang_whose_other_rank_ignores_signals(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(), "0=deaf,1=kill")
    assert pod.ending() == (10, FailureClass.INTERNAL, "RankKilled")
    assert "Rank 1 was ended by SIGKILL" in pod.message().message


def test_all_ranks_write_their_stacks_when_one_rank_hangs(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(), "0=work,1=hang")
    assert pod.ending() == (9, FailureClass.HANG, "RankSilent")
    assert "rank 1" in pod.message().message
    assert "in work" in (pod.paths.stacks / "0.txt").read_text()
    assert "in hang" in (pod.paths.stacks / "1.txt").read_text()


def test_the_ranks_of_a_gang_may_use_the_grace_period_to_end(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(preemption_grace_seconds=60), "0=work,1=work", SAVE_SECONDS="7")
    pod.until_working(0, 1)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "Preempted")
    assert (pod.paths.scratch / "saved-0").exists()
    assert (pod.paths.scratch / "saved-1").exists()


def test_a_failure_during_the_grace_period_is_in_the_message(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(), "0=fail-to-save,1=fail-to-save")
    pod.until_working(0, 1)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ending() == (8, FailureClass.PREEMPTED, "SaveFailed")
    assert "no right to write" in pod.message().message


def test_two_pods_rendezvous_and_succeed(start: Callable[..., Pod]) -> None:
    config = make_train_config(host="localhost", world=World(nodes=2))
    second = start(config, "0=succeed,1=succeed", node=1)
    first = start(config, "0=succeed,1=succeed", node=0)
    assert first.ending() == second.ending() == (0, FailureClass.SUCCESS, "Done")


def test_the_message_distinguishes_an_unresolved_name_from_a_silent_port(
    start: Callable[..., Pod],
) -> None:
    world = World(nodes=2)
    nameless = start(make_train_config(3, "job-0.nowhere.invalid.", world), "1=succeed", node=1)
    silent = start(make_train_config(3, "127.0.0.1", world), "1=succeed", node=1)
    assert nameless.ending() == silent.ending() == (7, FailureClass.COMMUNICATION, "MasterUnreachable")
    assert "job-0.nowhere.invalid. of the pod with index 0 does not resolve" in nameless.message().message
    assert "does not answer on port" in silent.message().message


def test_a_pod_whose_peers_do_not_start_fails_with_rendezvous_timeout(start: Callable[..., Pod]) -> None:
    pod = start(make_train_config(12, world=World(nodes=2)), "0=succeed", node=0)
    assert pod.ending() == (7, FailureClass.COMMUNICATION, "RendezvousTimeout")
