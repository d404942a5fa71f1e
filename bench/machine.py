"""What a benchmark ran on, and how busy that was."""

import os
import platform
import time
from pathlib import Path

from pydantic import BaseModel

QUIET_LOAD = 1.5
"""Load average (of one minute) above which timings say more of the neighbours than of what is measured."""


class Machine(BaseModel, frozen=True):
    """The machine in words."""

    cpu: str
    cores: int
    """Those this process may use."""
    memory_gib: float
    system: str

    def __str__(self) -> str:
        return f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB, {self.system}"


def this_machine() -> Machine:
    """The machine that this runs on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=models[0].partition(":")[2].strip() if models else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        system=f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}",
    )


def await_quiet(seconds: float) -> float:
    """Waits until the machine is quiet, for so many seconds at most; returns its load average then."""
    deadline = time.monotonic() + seconds
    while (load := os.getloadavg()[0]) >= QUIET_LOAD and time.monotonic() < deadline:
        time.sleep(2)
    return load
