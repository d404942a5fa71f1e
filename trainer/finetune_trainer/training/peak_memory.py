"""Measures the peak memory of a process: GPU memory, or resident memory on CPUs."""

from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def reset(device: torch.device) -> None:
    """Starts the measurement: memory that was freed before does not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # "5" resets the peak resident set size, see proc_pid_clear_refs(5).
        _PROCESS.joinpath("clear_refs").write_text("5")


def measure(device: torch.device) -> int:
    """Returns the peak memory since `reset` in bytes, without a synchronisation with the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = _PROCESS.joinpath("status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
