import json
from pathlib import Path

import pytest
import yaml

from finetune_operator.api import FineTuneJob

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "examples").glob("*.yaml"))


def test_there_are_examples() -> None:
    assert MANIFESTS


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_example_is_a_job(manifest: Path) -> None:
    for document in yaml.safe_load_all(manifest.read_text()):
        job = FineTuneJob.model_validate_json(json.dumps(document))
        assert job.metadata["name"]
