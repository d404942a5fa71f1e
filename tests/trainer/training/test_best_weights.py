from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from finetune_trainer.checkpoints.files import Part
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import weights
from finetune_trainer.s3.store import Store
from finetune_trainer.training import best_weights
from finetune_trainer.training.distributed import Gang
from tests.trainer.checkpoints.written import write

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


def parts_of(net: Net) -> list[Part]:
    """The weights of a model as its checkpoint has them, and a buffer."""
    trained = {name: value for name, value in weights.trained_tensors(net) if name != "seen"}
    return [
        *(Part("weight", name, 0, value.detach().float().view(-1)) for name, value in trained.items()),
        Part("buffer", "seen", 0, net.get_buffer("seen").view(-1)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("working", [torch.float32, torch.bfloat16])
def test_trained_weights_are_loaded_in_the_published_data_type_and_others_are_unchanged(
    alone: Gang,
    store: Store,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    working: torch.dtype,
) -> None:
    monkeypatch.setattr(best_weights, "_GROUP_BYTES", 40)
    tuned, plain = Net(1).to(working), Net(2).to(working)
    write(store, f"s3://{bucket}/", "00000005-1-pod", [parts_of(tuned)])
    frozen = plain.body.weight.clone()
    best_weights.load(alone, plain, store, f"s3://{bucket}/00000005-1-pod/", dtype)
    restored = plain.state_dict()
    for name in TRAINED:
        assert restored[name].dtype == working
        assert torch.equal(restored[name], tuned.state_dict()[name].to(dtype).to(working))
    assert plain.tied is plain.head
    assert torch.equal(plain.body.weight, frozen)
    assert torch.equal(plain.get_buffer("scratch"), torch.full((2,), 2.0, dtype=working))


def test_weights_of_another_model_are_refused(alone: Gang, store: Store, bucket: str) -> None:
    folder = f"s3://{bucket}/00000005-1-pod/"
    other = Part("weight", "other.weight", 0, torch.zeros(3))
    write(store, f"s3://{bucket}/", "00000005-1-pod", [[*parts_of(Net(1)), other]])
    with pytest.raises(AssertionError, match=r"other\.weight"):
        best_weights.load(alone, Net(2), store, folder, torch.float32)
    write(store, f"s3://{bucket}/", "00000005-1-pod", [parts_of(Net(1))[1:]])
    with pytest.raises(AssertionError, match=r"head\.weight"):
        best_weights.load(alone, Net(2), store, folder, torch.float32)
    short = Part("weight", "head.weight", 0, torch.zeros(11))
    write(store, f"s3://{bucket}/", "00000005-1-pod", [[short, *parts_of(Net(1))[1:]]])
    with pytest.raises(StageFailure, match=r"ObjectCorrupt: .* no weight head\.weight from 11"):
        best_weights.load(alone, Net(2), store, folder, torch.float32)


def test_a_damaged_checkpoint_is_a_failure_of_the_store(alone: Gang, store: Store, bucket: str) -> None:
    folder = f"s3://{bucket}/00000005-1-pod/"
    write(store, f"s3://{bucket}/", "00000005-1-pod", [parts_of(Net(1))])
    content = bytearray(store.read(folder + "00000.safetensors"))
    content[-1] ^= 1
    store.write(folder + "00000.safetensors", bytes(content))
    with pytest.raises(StageFailure, match="ObjectCorrupt"):
        best_weights.load(alone, Net(2), store, folder, torch.float32)


def test_a_missing_manifest_and_a_damaged_header_are_failures_of_the_store(
    alone: Gang, store: Store, bucket: str
) -> None:
    folder = f"s3://{bucket}/00000005-1-pod/"
    write(store, f"s3://{bucket}/", "00000005-1-pod", [parts_of(Net(1))])
    content = bytearray(store.read(folder + "00000.safetensors"))
    content[20] ^= 1
    store.write(folder + "00000.safetensors", bytes(content))
    for match in ("another SHA-256", "the manifest of .* cannot be read"):
        with pytest.raises(StageFailure, match=match) as caught:
            best_weights.load(alone, Net(2), store, folder, torch.float32)
        assert (caught.value.failure, caught.value.reason) == (FailureClass.STORAGE, "ObjectCorrupt")
        store.delete([folder + "manifest.json"])


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
