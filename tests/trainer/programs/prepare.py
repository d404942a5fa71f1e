"""Runs Prepare alone, and fails if torch came in. Arguments: root folder, file for the payload."""

import sys
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.paths import Paths
from finetune_trainer.stages import prepare


class Silent:
    leave_requested = False

    def beat(self, *_: object, **__: object) -> None:
        pass


paths = Paths(Path(sys.argv[1]))
result = prepare.run(TrainConfig.read(paths.config), paths, Silent())
assert result.payload is not None
Path(sys.argv[2]).write_text(result.payload.model_dump_json(by_alias=True))
loaded = [name for name in sys.modules if name.startswith("torch.")]
assert not loaded, loaded[:3]
