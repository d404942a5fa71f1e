"""Reads a published folder as a user of transformers does; runs with the Python of the reader.

Argument: a JSON file with `folder`, `base` (null for a whole model), `classifier`, `texts`, and `result`: the
file for a JSON object with token ids and logits by text.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def main() -> None:
    """Reads the model, and writes what it computes."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    auto: Any = (
        transformers.AutoModelForSequenceClassification
        if asked["classifier"]
        else transformers.AutoModelForCausalLM
    )
    folder, base = asked["folder"], asked["base"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = auto.from_pretrained(
        base or folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=base is not None
    )
    if base:
        from peft import PeftModel  # noqa: PLC0415 - only for an adapter

        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    model.eval()
    ids = {text: tokenizer(text)["input_ids"] for text in asked["texts"]}
    with torch.no_grad():
        if asked["classifier"]:
            # In one batch, which needs the padding token.
            batch = tokenizer(asked["texts"], padding=True, return_tensors="pt")
            rows = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            logits = dict(zip(asked["texts"], rows.tolist(), strict=True))
        else:
            logits = {
                text: model(input_ids=torch.tensor([row])).logits[0].tolist() for text, row in ids.items()
            }
    labels = [name for _, name in sorted(model.config.id2label.items())]
    written = {"version": transformers.__version__, "ids": ids, "logits": logits, "labels": labels}
    Path(asked["result"]).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
