"""A real Prometheus, of Debian's package, for the tests of dashboards and rules."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from devcluster import packages


def program(name: str) -> Path:
    """The path of `prometheus` or `promtool`."""
    return packages.unpacked("prometheus") / "usr/bin" / name


@contextmanager
def prometheus(folder: Path, config: dict[str, Any], *, lookback: str = "5m") -> Iterator[str]:
    """Runs a Prometheus on a free port of the loopback interface, and returns its address.

    Args:
        folder: folder for configuration and data; `data` may hold blocks.
        config: the configuration.
        lookback: how long the last sample of a series counts.

    Raises:
        RuntimeError: Prometheus does not start; the text is its log.
    """
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            "--web.listen-address=127.0.0.1:0",
            f"--query.lookback-delta={lookback}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield f"http://{_address(process)}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _address(process: subprocess.Popen[str]) -> str:
    """Reads the log until Prometheus serves requests, and returns host and port."""
    assert process.stderr is not None
    read, address, ready = [], "", False
    # The order of the two lines is not fixed.
    for line in process.stderr:
        read.append(line)
        if found := re.search(r'msg="Listening on" address=(\S+)', line):
            address = found[1]
        ready |= "ready to receive web requests" in line
        if address and ready:
            return address
    raise RuntimeError("".join(read))
