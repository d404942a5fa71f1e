"""Runs programs as forks of one process that has imported torch, transformers and DeepSpeed already.

The imports take many seconds of CPU time. A program runs as `python -m MODULE` would run it: as `__main__`,
with its own arguments, environment and output.
"""

import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

PRELOADED = "tests.trainer.programs.preloaded"
_PR_SET_PDEATHSIG = 1


class Forked:
    """A gang of processes that run one program, as torchrun would start them on one node.

    Args:
        module: the program.
        arguments: arguments of the program.
        ranks: number of processes.
        environment: further environment variables.
    """

    def __init__(self, module: str, *arguments: str, ranks: int, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self.output, self.errors = (Path(self._folder.name, name) for name in ("stdout", "stderr"))
        self.output.touch()
        self.errors.touch()
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        argv = (module, *arguments)
        files = (str(self.output), str(self.errors))
        self._agent = _context().Process(target=_run_gang, args=(argv, ranks, variables, files))
        self._agent.start()

    def poll(self) -> int | None:
        """The exit code, 0 if every process has exited with 0; None while processes run."""
        self._agent.join(0)
        return self._agent.exitcode

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Waits for the end of all processes.

        Raises:
            TimeoutError: processes still ran after `seconds`; they have been killed.
        """
        self._agent.join(seconds)
        code = self._agent.exitcode
        output, errors = self.output.read_text(), self.errors.read_text()
        if code is None:
            self.end()
            raise TimeoutError(f"the processes did not end within {seconds} s: {errors[-3000:]}")
        return subprocess.CompletedProcess((), code, output, errors)

    def end(self) -> None:
        """Kills the processes that still run."""
        self._agent.kill()
        self._agent.join()


def run(
    module: str, *arguments: str, ranks: int = 1, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program on a gang of processes until their end, at most 1800 s."""
    return Forked(module, *arguments, ranks=ranks, environment=environment or {}).wait(1800)


@cache
def _context() -> ForkServerContext:
    """Starts the fork server of this test process; the server ends with the test process."""
    context = get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    # A fork of a process with threads can deadlock: without these variables numpy and pyarrow start threads.
    without_threads = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with mock.patch.dict(os.environ, without_threads):
        forkserver.ensure_running()
    return context


def _run_gang(
    argv: tuple[str, ...], ranks: int, environment: Mapping[str, str], files: tuple[str, str]
) -> None:
    """Runs in a fork of the server: starts the ranks, hosts their store as torchrun does, and waits."""
    assert PRELOADED in sys.modules, "the fork server ignores a module that it cannot import"
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ.clear()
        os.environ.update(environment)
        os.environ.update(
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(listener.getsockname()[1]),
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT="0",
        )
        agent = os.getpid()
        running = {_fork(lambda rank=rank: _run_rank(rank, agent, argv)) for rank in range(ranks)}
        from torch.distributed import TCPStore  # noqa: PLC0415 - only the fork server has torch

        # The store has threads, so it comes after the forks.
        store = TCPStore(
            *("127.0.0.1", listener.getsockname()[1]),
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=os.dup(listener.fileno()),
            use_libuv=False,
        )
    failed = False
    while running:
        process, status = os.wait()
        running.discard(process)
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGTERM)
    del store
    sys.exit(int(failed))


def _fork(act: Callable[[], None]) -> int:
    if process := os.fork():
        return process
    code = 1
    try:
        act()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter ends a program
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_rank(rank: int, agent: int, argv: tuple[str, ...]) -> None:
    """Runs the program; the kernel kills the rank when its agent has died."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent:
        os._exit(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv[1:] = argv[1:]
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
