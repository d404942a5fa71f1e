"""A run that several tests need, without a store behind it."""

from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    ModelSource,
    Run,
    StoreAccess,
    Stores,
    TrainSplit,
)

_ACCESS = StoreAccess(endpoint="https://minio:9000")
CLASSIFICATION = Run(
    task="TextClassification",
    model=ModelSource(uri="s3://models/encoder"),
    dataset=Dataset(
        train=TrainSplit(uri="s3://data/train.jsonl"), validation=HeldOut(split=0.1), test=HeldOut(split=0.1)
    ),
    evaluation=EvaluationSpec(metrics=("macroF1",)),
    output="s3://models/tuned/",
    runs="s3://models/runs/",
    stores=Stores(data=_ACCESS, model=_ACCESS, output=_ACCESS),
)
