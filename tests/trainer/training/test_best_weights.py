from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from finetune_trainer.failures import StageFailure
from finetune_trainer.models import weights
from finetune_trainer.training import best_weights
from finetune_trainer.training.distributed import Gang

ALONE = Gang(0, 0, 1, torch.device("cpu"))
TRAINED = {"head.weight", "head.bias", "seen"}


class Net(torch.nn.Module):
    """A frozen body, a head that another name shares, a buffer that is saved and one that is not."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = torch.nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.head = torch.nn.Linear(4, 3)
        self.tied = self.head
        self.register_buffer("seen", torch.tensor(float(seed)))
        self.register_buffer("scratch", torch.full((2,), float(seed)), persistent=False)


@pytest.fixture
def alone() -> Iterator[Gang]:
    """A gang of one, with its process group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield ALONE
    dist.destroy_process_group()


def test_trained_weights_are_saved_and_loaded_and_other_weights_are_unchanged(
    alone: Gang, tmp_path: Path
) -> None:
    tuned, plain = Net(1), Net(2)
    best_weights.keep(alone, tuned, tmp_path / "best" / "weights.safetensors", torch.float32)
    kept = load_file(tmp_path / "best" / "weights.safetensors")
    assert kept.keys() == TRAINED
    frozen = plain.body.weight.clone()
    best_weights.spread(alone, plain, tmp_path / "best" / "weights.safetensors")
    restored = plain.state_dict()
    assert all(torch.equal(restored[name], tuned.state_dict()[name]) for name in TRAINED)
    assert plain.tied is plain.head
    assert torch.equal(plain.body.weight, frozen)
    assert torch.equal(plain.get_buffer("scratch"), torch.full((2,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("working", [torch.float32, torch.bfloat16])
def test_weights_are_rounded_to_the_published_data_type(
    alone: Gang, tmp_path: Path, dtype: torch.dtype, working: torch.dtype
) -> None:
    tuned, plain = Net(1).to(working), Net(2).to(working)
    best_weights.keep(alone, tuned, tmp_path / "weights.safetensors", dtype)
    assert {value.dtype for value in load_file(tmp_path / "weights.safetensors").values()} == {dtype}
    best_weights.spread(alone, plain, tmp_path / "weights.safetensors")
    for name in TRAINED:
        restored, trained = plain.state_dict()[name], tuned.state_dict()[name]
        assert restored.dtype == working
        assert torch.equal(restored, trained.to(dtype).to(working))


def test_a_weight_that_the_published_data_type_cannot_represent_ends_all_ranks(tmp_path: Path) -> None:
    net = Net(1)
    with torch.no_grad():
        net.head.weight[1, 2] = 70000.0
    for rank in (0, 1):
        with pytest.raises(
            StageFailure, match=r"WeightsOverflow: the weight head\.weight has values up to 7e\+04"
        ):
            best_weights.keep(
                Gang(rank, rank, 2, torch.device("cpu")), net, tmp_path / "weights.safetensors", torch.float16
            )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_previous_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    best_weights.keep(ALONE, Net(1), path, torch.float32)
    before = path.read_bytes()

    def full(_: object, unfinished: Path) -> None:
        unfinished.write_bytes(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(best_weights, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        best_weights.keep(ALONE, Net(2), path, torch.float32)
    assert path.read_bytes() == before


def test_only_rank_0_writes_the_file(tmp_path: Path) -> None:
    best_weights.keep(
        Gang(1, 1, 2, torch.device("cpu")), Net(1), tmp_path / "weights.safetensors", torch.float32
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_are_refused(alone: Gang, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    best_weights.keep(alone, Net(1), path, torch.float32)
    kept = load_file(path)
    save_file({**kept, "other.weight": torch.zeros(3)}, path)
    with pytest.raises(AssertionError, match=r"other\.weight"):
        best_weights.spread(alone, Net(2), path)
    del kept["head.bias"]
    save_file(kept, path)
    with pytest.raises(AssertionError, match=r"head\.bias"):
        best_weights.spread(alone, Net(2), path)
    save_file({**kept, "head.bias": torch.zeros(4)}, path)
    with pytest.raises(RuntimeError, match="size"):
        best_weights.spread(alone, Net(2), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("body.weight", ["body.weight"]),
        ("head.bias", ["head.bias"]),
        ("tied.weight", ["head.weight"]),
        ("seen", ["seen"]),
        ("scratch", []),
    ],
)
def test_nan_and_infinity_are_found_in_every_saved_tensor(name: str, told: list[str], value: float) -> None:
    net = Net(1)
    assert weights.list_non_finite(net) == []
    tensors = dict(net.named_buffers()) | dict(net.named_parameters(remove_duplicate=False))
    tensors[name].data.view(-1)[-1] = value
    assert weights.list_non_finite(net) == told
