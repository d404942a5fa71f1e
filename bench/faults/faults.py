"""The faults. Each function runs attempts of a drill, injects its fault, and returns the last attempt."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.faults.drill import Drill
from bench.pods import Pod
from finetune_trainer.checkpoints.documents import MANIFEST
from finetune_trainer.checkpoints.retention import newest_first
from finetune_trainer.contract import Activity
from tests.trainer.storeproxy import Fault as StoreFault

_OUTAGE_SECONDS = 5.0
_SLOW_SECONDS = 3.0
_SHARD = ".safetensors"
_BELOW = "/checkpoints/"
Inject = Callable[[Drill], Pod]


@dataclass(frozen=True)
class Fault:
    """A fault, as a row of the table."""

    name: str
    inject: Inject


def kill_a_rank(drill: Drill) -> Pod:
    """SIGKILL of the last rank between two checkpoints."""
    pod = drill.start_training()
    drill.kill_rank(pod)
    drill.end(pod)
    return drill.resume()


def kill_the_supervisor(drill: Drill) -> Pod:
    """SIGKILL of PID 1 of the pod, with which the kernel kills all processes of the pod."""
    pod = drill.start_training()
    drill.strike(pod.kill)
    drill.end(pod)
    return drill.resume()


def terminate_in_training(drill: Drill) -> Pod:
    """SIGTERM of the pod between two checkpoints."""
    pod = drill.start_training()
    drill.terminate(pod)
    drill.end(pod, planned=True)
    return drill.resume()


def terminate_in_evaluation(drill: Drill) -> Pod:
    """SIGTERM of the pod while rank 0 is held in an evaluation of the validation rows."""
    pod = drill.start()
    file = pod.await_rank(lambda file: file.activity is Activity.EVALUATING and file.step)
    os.kill(file.pid, signal.SIGSTOP)
    drill.terminate(pod)
    os.kill(file.pid, signal.SIGCONT)
    drill.end(pod, planned=True)
    return drill.resume()


def terminate_in_saving(drill: Drill) -> Pod:
    """SIGTERM of the pod during the upload of a checkpoint, which ends after the signal."""
    pod = drill.start_training()
    ailment = drill.proxy.suffer("pause", "put", below=_BELOW)
    drill.until(lambda: ailment.suffered)
    drill.terminate(pod)
    drill.proxy.resume()
    drill.end(pod, planned=True)
    drill.proxy.heal()
    return drill.resume()


def terminate_in_loading(drill: Drill) -> Pod:
    """SIGTERM of the second attempt while it reads a checkpoint."""
    pod = drill.start_training()
    drill.kill_rank(pod)
    drill.end(pod)
    ailment = drill.proxy.suffer("pause", "get", below=_SHARD)
    second = drill.start()
    drill.until(lambda: ailment.suffered)
    drill.terminate(second)
    drill.proxy.resume()
    drill.end(second, planned=True)
    drill.proxy.heal()
    return drill.resume()


def kill_in_an_upload(drill: Drill) -> Pod:
    """SIGKILL of the last rank while it uploads its file: no manifest is written."""
    pod = drill.start_training()
    ailment = drill.proxy.suffer("hang", "put", "put part", below=f"{drill.last_rank:05d}{_SHARD}")
    drill.until(lambda: ailment.suffered)
    drill.kill_rank(pod)
    drill.end(pod)
    drill.proxy.heal()
    return drill.resume()


def _damage(drill: Drill, act: Callable[[Drill, str], object]) -> Pod:
    """Kills a rank, and damages the newest checkpoint; the next attempt resumes from the one before."""
    pod = drill.start_training()
    drill.until(lambda: len(drill.listing().complete) > 1)
    drill.kill_rank(pod)
    drill.end(pod, damaged=1)
    newest = newest_first(drill.listing().complete)[0]
    (uri,) = [uri for uri in drill.objects() if uri.endswith(f"/{newest}/00000{_SHARD}")]
    act(drill, uri)
    return drill.resume()


def flip_a_bit(drill: Drill) -> Pod:
    """One bit of a file of the newest checkpoint differs."""

    def flip(drill: Drill, uri: str) -> None:
        content = bytearray(drill.store.read(uri))
        content[-1] ^= 1
        drill.store.write(uri, bytes(content))

    return _damage(drill, flip)


def truncate_a_file(drill: Drill) -> Pod:
    """A file of the newest checkpoint has half its size."""

    def truncate(drill: Drill, uri: str) -> None:
        content = drill.store.read(uri)
        drill.store.write(uri, content[: len(content) // 2])

    return _damage(drill, truncate)


def delete_a_file(drill: Drill) -> Pod:
    """A file of the newest checkpoint is missing."""
    return _damage(drill, lambda drill, uri: drill.store.delete([uri]))


def garble_the_manifest(drill: Drill) -> Pod:
    """The manifest of the newest checkpoint is no JSON."""

    def garble(drill: Drill, uri: str) -> None:
        drill.store.write(f"{uri.rpartition('/')[0]}/{MANIFEST}", b"{")

    return _damage(drill, garble)


def outage(fault: StoreFault, seconds: float = _OUTAGE_SECONDS) -> Inject:
    """A store with a fault for a while. Training goes on in the same attempt.

    Args:
        fault: the fault of all requests.
        seconds: duration of the fault.
    """

    def inject(drill: Drill) -> Pod:
        pod = drill.start_training()
        before = pod.await_rank(lambda _: True).step or 0
        drill.strike(lambda: drill.proxy.suffer(fault))
        pod.await_rank(lambda file: (file.step or 0) > before or file.ended)
        drill.account.seconds = time.monotonic() - drill.struck
        time.sleep(seconds)
        drill.proxy.resume()
        drill.proxy.heal()
        drill.account.outcomes.append("training went on")
        return pod

    return inject


def fill_the_store(drill: Drill) -> Pod:
    """The store has no free space until the attempt fails; then the store has space again."""
    pod = drill.start_training()
    drill.proxy.suffer("full", "put", "begin upload", "put part")
    drill.end(pod)
    drill.strike(drill.proxy.heal)
    return drill.resume()


def stop_at_random_moments(moments: int) -> Inject:
    """SIGTERM of one attempt after another, each at a random moment after its start.

    Args:
        moments: number of attempts that receive SIGTERM.
    """

    def inject(drill: Drill) -> Pod:
        drawn = random.Random(drill.scenario.name)  # noqa: S311 - no secret
        pod = drill.start()
        ready = drill.time_to_training(pod)
        for _ in range(moments):
            time.sleep(drawn.uniform(0, 1.5 * ready))
            if not pod.running:
                break
            drill.terminate(pod)
            drill.end(pod, planned=True)
            pod = drill.start()
        drill.await_step(pod)
        return pod

    return inject


FAULTS = (
    Fault("SIGKILL of a rank", kill_a_rank),
    Fault("SIGKILL of the supervisor", kill_the_supervisor),
    Fault("SIGTERM in training", terminate_in_training),
    Fault("SIGTERM in an evaluation", terminate_in_evaluation),
    Fault("SIGTERM during an upload", terminate_in_saving),
    Fault("SIGTERM while loading", terminate_in_loading),
    Fault("SIGKILL during an upload", kill_in_an_upload),
    Fault("newest checkpoint: a flipped bit", flip_a_bit),
    Fault("newest checkpoint: a truncated file", truncate_a_file),
    Fault("newest checkpoint: a missing file", delete_a_file),
    Fault("newest checkpoint: a damaged manifest", garble_the_manifest),
    Fault("store refuses connections for 5 s", outage("refuse")),
    Fault("store resets connections for 5 s", outage("reset")),
    Fault("store answers slowly for 3 s", outage("pause", _SLOW_SECONDS)),
    Fault("store answers 503 for 5 s", outage("slow down")),
    Fault("store is full until the attempt fails", fill_the_store),
)
