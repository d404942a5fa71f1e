"""The paths of the files of a trainer pod."""

from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.config import StoreRole

MODEL_FOLDER, RECORD, VERIFICATION = "model", "record.json", "verification.safetensors"
PREDICTIONS = "predictions.jsonl"
"""Names of the folder of the model and of the files in a staging folder."""


@dataclass(frozen=True)
class Paths:
    """The paths of a trainer pod, below a root folder: `/` in a pod, another folder in a test."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """The config file (config.TrainConfig), mounted read-only."""
        return self.root / "etc/finetune/config.json"

    @property
    def progress_key(self) -> Path:
        """The key that signs requests to the endpoint of a pod (contract.signatures), mounted read-only."""
        return self.root / "etc/finetune/progress-key"

    def credentials(self, role: StoreRole) -> Path:
        """Folder with the files accessKey, secretKey and optionally sessionToken.

        Args:
            role: role of the store.
        """
        return self.root / "var/run/finetune/storage" / role

    def ca_bundle(self, role: StoreRole) -> Path:
        """File with the CA bundle (PEM) of a store.

        Args:
            role: role of the store.
        """
        return self.root / "etc/finetune/ca" / role / "ca.crt"

    @property
    def scratch(self) -> Path:
        """Writable folder for temporary files; deleted with the pod."""
        return self.root / "tmp/finetune"

    @property
    def shared_memory(self) -> Path:
        """Folder of the shared memory of processes; deleted with the pod."""
        return self.root / "dev/shm"

    @property
    def ranks(self) -> Path:
        """Folder of the rank files: `<global rank>.json` (contract.RankFile) for each rank of the pod."""
        return self.scratch / "ranks"

    @property
    def stacks(self) -> Path:
        """Folder of the stacks: each rank writes `<global rank>.txt` after SIGUSR2."""
        return self.scratch / "stacks"

    @property
    def errors(self) -> Path:
        """Folder of the errors: a failed rank writes the full text of its error to `<global rank>.txt`."""
        return self.scratch / "errors"

    @property
    def agent(self) -> Path:
        """The report of torchrun on failed ranks (JSON, written by pod/agent.py)."""
        return self.scratch / "agent.json"

    @property
    def progress(self) -> Path:
        """The progress document (contract.Progress), which rank 0 writes and /progress serves."""
        return self.scratch / "progress.json"

    @property
    def cache(self) -> Path:
        """Cache of model and data files; the trainer verifies the digest of a file before use."""
        return self.root / "var/cache/finetune"

    @property
    def termination_log(self) -> Path:
        """The file from which the kubelet reads the termination message."""
        return self.root / "dev/termination-log"
