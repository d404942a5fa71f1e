"""Exports a published classifier to ONNX, and runs the export with ONNX Runtime.

Argument and result are those of read.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers


class Logits(torch.nn.Module):
    """A classifier that gives a tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits, shape [rows, classes]."""
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def main() -> None:
    """Exports and runs the model."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    folder = asked["folder"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer(asked["texts"], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    file = Path(asked["result"]).with_suffix(".onnx")
    sizes = {0: torch.export.Dim("rows", max=64), 1: torch.export.Dim("tokens", min=3, max=256)}
    torch.onnx.export(
        Logits(model).eval(),
        kwargs=inputs,
        f=str(file),
        dynamo=True,
        dynamic_shapes=dict.fromkeys(inputs, sizes),
        input_names=list(inputs),
        output_names=["logits"],
    )
    session = onnxruntime.InferenceSession(file)
    # Other numbers of rows and tokens than in the export.
    texts = asked["texts"][:2]
    batch = tokenizer(texts, padding=True, return_tensors="np")
    (rows,) = session.run(["logits"], {name: batch[name] for name in inputs})
    ids = {text: tokenizer(text)["input_ids"] for text in asked["texts"]}
    labels = [name for _, name in sorted(model.config.id2label.items())]
    written = {
        "version": onnxruntime.__version__,
        "ids": ids,
        "logits": dict(zip(texts, rows.tolist(), strict=True)),
        "labels": labels,
    }
    Path(asked["result"]).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
