"""The trainer's own entry, held at its first import: writes `importing`, then waits for its stdin to end."""

import importlib.abc
import runpy
import sys


class Hold(importlib.abc.MetaPathFinder):
    """Finds nothing, but not at once."""

    def find_spec(self, name: str, *_: object) -> None:
        """Waits where the entry begins to import."""
        if name == "finetune_trainer.contract":
            sys.stdout.write("importing\n")
            sys.stdout.flush()
            sys.stdin.read()


sys.meta_path.insert(0, Hold())
runpy.run_module("finetune_trainer", run_name="__main__", alter_sys=True)
