import pytest
import torch
from safetensors.torch import load

from finetune_trainer.checkpoints import files
from finetune_trainer.checkpoints.files import HostCopy, Part, read_header

PARTS = [
    Part("buffer", "flags", 0, torch.tensor([True, False, True])),
    Part("exp_avg", "a:b", 7, torch.arange(5.0)),
    Part("weight", "a:b", 7, torch.arange(5.0) + 10),
    Part("weight", "c", 0, torch.arange(3.0) + 20),
    Part("buffer", "count", 0, torch.tensor([2**40])),
]


def test_the_copy_is_a_safetensors_file_with_all_weights_together() -> None:
    copy = HostCopy()
    copy.take(PARTS)
    content = b"".join(copy.blocks())
    assert len(content) == len(copy.header) + copy.data_bytes
    loaded = load(content)
    assert loaded.keys() == {part.key for part in PARTS}
    assert all(torch.equal(loaded[part.key], part.values) for part in PARTS)
    spans = sorted(read_header(copy.header), key=lambda span: span.start)
    assert [(span.kind, span.name, span.offset, span.elements) for span in spans] == [
        ("buffer", "count", 0, 1),
        ("weight", "a:b", 7, 5),
        ("weight", "c", 0, 3),
        ("exp_avg", "a:b", 7, 5),
        ("buffer", "flags", 0, 3),
    ]


def test_the_data_are_read_in_blocks_after_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    copy = HostCopy()
    copy.take(PARTS)
    header, *blocks = copy.blocks()
    assert bytes(header) == copy.header
    assert [len(block) for block in blocks] == [16, 16, 16, 15]


def test_the_next_copy_uses_the_same_memory() -> None:
    copy = HostCopy()
    values = torch.zeros(1000)
    copy.take([Part("weight", "a", 0, values)])
    first = memoryview(list(copy.blocks())[1])
    values += 1
    assert not any(first), "later changes of the tensor are not in the copy"
    copy.take([Part("weight", "a", 0, values)])
    assert torch.frombuffer(first, dtype=torch.float32).eq(1).all()


def test_a_rank_without_parts_has_an_empty_file() -> None:
    copy = HostCopy()
    copy.take([])
    content = b"".join(copy.blocks())
    assert load(content) == {}
