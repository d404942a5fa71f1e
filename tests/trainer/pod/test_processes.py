"""The end of processes whose threads outlive their main thread."""

import os
import subprocess
import sys

ENDS_DESCENDANTS = """
import os, subprocess, sys
from finetune_trainer.pod import processes

processes.take_over()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.read(1)
while processes.state(child.pid) != "Z":
    os.sched_yield()
print(sorted(processes.end_descendants()))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("all reaped")
"""
ZOMBIE_WITH_A_THREAD = """
import ctypes, threading

threading.Thread(target=threading.Event().wait).start()
print("1", end="", flush=True)
ctypes.CDLL(None).syscall({exit}, 0)
"""
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
"""Number of the system call that ends only the calling thread."""


def test_a_zombie_with_a_living_thread_is_ended_and_reaped() -> None:
    script = ZOMBIE_WITH_A_THREAD.format(exit=SYS_EXIT)
    result = subprocess.run(
        [sys.executable, "-c", ENDS_DESCENDANTS, script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout == "[]\nall reaped\n"
