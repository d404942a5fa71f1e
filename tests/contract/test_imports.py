import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "deepspeed", "sklearn", "minio", "obstore")


def loaded_by(module: str) -> set[str]:
    script = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "finetune_operator.api.crd",
        "finetune_operator.runtime.reconciler",
        "finetune_operator.runtime.handlers",
        "finetune_trainer.config",
        "finetune_trainer.pod.supervisor",
    ],
)
def test_no_torch_at_run_time(module: str) -> None:
    assert not loaded_by(module).intersection(HEAVY)
