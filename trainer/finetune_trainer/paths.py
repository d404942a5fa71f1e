"""Where a trainer pod finds and leaves its files."""

from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.config import StoreRole

MODEL_FOLDER, RECORD, VERIFICATION = "model", "record.json", "verification.safetensors"
PREDICTIONS = "predictions.jsonl"
"""Names in a staging folder."""


@dataclass(frozen=True)
class Paths:
    """All paths of a trainer, below one root: `/` in a pod, any folder in a test."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """The trainer's whole input, mounted read-only."""
        return self.root / "etc/finetune/config.json"

    def credentials(self, role: StoreRole) -> Path:
        """Folder with the files accessKey, secretKey and, where there is one, sessionToken."""
        return self.root / "var/run/finetune/storage" / role

    def ca_bundle(self, role: StoreRole) -> Path:
        """The store's own certificate authority (PEM)."""
        return self.root / "etc/finetune/ca" / role / "ca.crt"

    @property
    def scratch(self) -> Path:
        """Writable, gone with the pod."""
        return self.root / "tmp/finetune"

    @property
    def ranks(self) -> Path:
        """One `<rank>.json` (contract.RankFile) for each local rank."""
        return self.scratch / "ranks"

    @property
    def stacks(self) -> Path:
        """Where each rank leaves its stack, as `<rank>.txt`, when it is asked by SIGUSR2."""
        return self.scratch / "stacks"

    @property
    def errors(self) -> Path:
        """Where each rank leaves the whole text of the error that it ended with, as `<rank>.txt`."""
        return self.scratch / "errors"

    @property
    def agent(self) -> Path:
        """What torchrun says about ranks that died (JSON)."""
        return self.scratch / "agent.json"

    @property
    def progress(self) -> Path:
        """What /progress serves (contract.Progress); written by global rank 0 only."""
        return self.scratch / "progress.json"

    @property
    def cache(self) -> Path:
        """Model and data files, verified by digest before use."""
        return self.root / "var/cache/finetune"

    @property
    def termination_log(self) -> Path:
        """Where the kubelet reads the termination message."""
        return self.root / "dev/termination-log"
