"""Runs the real supervisor with a scripted rank: supervised.py ROOT SCRIPT, such as `0=succeed,1=exit-7`."""

import sys
from pathlib import Path

from finetune_trainer.paths import Paths
from finetune_trainer.pod.supervisor import main

SCRIPTED = Path(__file__).with_name("scripted_rank.py")

if __name__ == "__main__":
    sys.exit(main(Paths(Path(sys.argv[1])), 0, (str(SCRIPTED), "--script", sys.argv[2])))
