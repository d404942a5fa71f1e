"""Stands for torchrun, without torch: fake_agent.py REPORT --nproc-per-node=N --node-rank=N --no-python RANK

After the first failure of a rank, the other ranks get SIGTERM. The report has the exit codes, as that of
`finetune_trainer.pod.agent`. The ranks of several pods do not wait for each other.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

report, *arguments = sys.argv[1:]
options = dict(
    argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument
)
program = arguments[arguments.index("--no-python") + 1 :]
count, node = int(options["--nproc-per-node"]), int(options["--node-rank"])
running = {}
for rank in range(node * count, (node + 1) * count):
    pid = os.posix_spawn(program[0], program, {**os.environ, "RANK": str(rank)})
    running[pid] = rank
deaths = []
while running:
    pid, status = os.wait()
    rank, code = running.pop(pid), os.waitstatus_to_exitcode(status)
    if code:
        deaths.append({"rank": rank, "code": code, "time": time.time()})
        for other in running:
            os.kill(other, signal.SIGTERM)
if deaths:
    unfinished = Path(f"{report}.part")
    unfinished.write_text(json.dumps({"deaths": deaths}))
    unfinished.replace(report)
sys.exit(bool(deaths))
