import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch  # noqa: F401 - before transformers, which Prepare would otherwise load without it for good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minio import Minio
from safetensors.numpy import load_file, save

from devcluster import pki
from devcluster.objectstore import ObjectStore
from finetune_trainer.config import JobRef, StoreAccess, StoreRole, TrainConfig
from finetune_trainer.contract import Activity, FailureClass, PreparePayload
from finetune_trainer.data.shards import load_prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.lineage import lineage_of
from finetune_trainer.paths import Paths
from finetune_trainer.s3.manifest import Ancestor, Manifest
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import prepare
from tests.trainer.data.written import FORMATS
from tests.trainer.storage import (
    add_user,
    give_authority,
    give_keys,
    give_version,
    on_both_stores,
    remove_user,
    session_keys,
)

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Silent:
    leave_requested = False

    def beat(self, *_: object, **__: object) -> None:
        pass


def lines(*rows: dict[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def rows(count: int, first: int = 0) -> list[dict[str, object]]:
    """Different texts of two classes, in words that the tiny tokenizer knows."""
    return [
        {"text": f"w{2 + n % 48} w{2 + n // 48} w{2 + n % 7}", "label": "ab"[n % 2]}
        for n in range(first, first + count)
    ]


@dataclass
class Job:
    """A job whose model and data are in a bucket of their own."""

    bucket: str
    access: StoreAccess
    paths: Paths
    store: Store

    def put(self, key: str, data: bytes) -> None:
        self.store.write(f"s3://{self.bucket}/{key}", data)

    def config(self, **changes: Any) -> TrainConfig:
        """The good config with some fields of `run` replaced, by dotted path."""
        access = self.access.model_dump(by_alias=True)
        folder = f"s3://{self.bucket}"
        run: dict[str, Any] = {
            "task": "TextClassification",
            "model": {"uri": f"{folder}/model"},
            "dataset": {
                "train": {"uri": f"{folder}/data/train.jsonl"},
                "validation": {"split": 0.1},
                "test": {"uri": f"{folder}/data/test.jsonl"},
            },
            "training": {},
            "evaluation": {"metrics": ["accuracy", "macroF1"]},
            "world": {"nodes": 2},
            "output": f"{folder}/tuned/ns/job/{UID[:8]}/",
            "runs": f"{folder}/.finetune-runs/ns/{UID}/",
            "stores": {"data": access, "model": access, "output": access},
        }
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = run
            for parent in parents:
                place = place[parent]
            place[last] = json.loads(json.dumps(value).replace("BUCKET", self.bucket))
        job = {"namespace": "ns", "name": "job", "uid": UID, "generation": 1}
        return TrainConfig.model_validate(
            {"contractVersion": "1.0", "stage": "Prepare", "attempt": 1, "job": job, "run": run}
        )

    def prepare(self, **changes: Any) -> PreparePayload:
        payload = prepare.run(self.config(**changes), self.paths, Silent()).payload
        assert isinstance(payload, PreparePayload)
        return payload

    def refused(self, **changes: Any) -> StageFailure:
        with pytest.raises(StageFailure) as failure:
            self.prepare(**changes)
        return failure.value

    def report_of(self, failure: StageFailure) -> dict[str, Any]:
        """The data report that the hint of a failure names."""
        (uri,) = re.findall(r"s3://\S+/report\.json", failure.hint)
        return dict(json.loads(self.store.read(uri)))

    def keys(self) -> list[str]:
        prefix = f"s3://{self.bucket}/"
        return [entry.uri.removeprefix(prefix) for entry in self.store.list(prefix)]


@pytest.fixture
def job(bucket: str, access: StoreAccess, paths: Paths, store: Store, tiny_base: Path) -> Job:
    made = Job(bucket, access, paths, store)
    for path in tiny_base.iterdir():
        made.put(f"model/{path.name}", path.read_bytes())
    made.put("data/train.jsonl", lines(*rows(200)))
    made.put("data/test.jsonl", lines(*rows(100, first=200)))
    return made


@on_both_stores
def test_good_rows_are_counted_split_tokenised_and_stored(job: Job, tiny_base: Path) -> None:
    payload = job.prepare()
    weights = load_file(tiny_base / "model.safetensors").values()
    assert payload.rows.model_dump() == {"train": 180, "validation": 20, "test": 100, "dropped": 0}
    assert (payload.labels, payload.parameters) == (2, sum(weight.size for weight in weights))
    assert (payload.chosen.batch_size, payload.chosen.max_length, payload.chosen.zero_stage) == (32, 8, 2)
    prepared = load_prepared(job.store, payload.prepared, job.paths)
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == (180, 20, 100)
    assert prepared.labels == ("a", "b")
    assert len(prepared.train.tokens) == payload.tokens == 180 * 3
    source = rows(200)[int(prepared.train.rows[5]) - 1]
    assert [f"w{token}" for token in prepared.train.row(5)] == str(source["text"]).split()
    assert prepared.labels[prepared.train.labels[5]] == source["label"]
    report = json.loads(job.store.read(payload.report))
    assert report["labels"] == {label: {"train": 90, "validation": 10, "test": 50} for label in "ab"}


def test_a_stage_goes_on_when_its_keys_are_exchanged(job: Job, s3: ObjectStore, tmp_path: Path) -> None:
    user, secret = add_user(s3, job.bucket, {"": ["s3:*"], "*": ["s3:*"]}, tmp_path)

    def exchange() -> None:
        """Temporary keys take the place of those of a user who is no more."""
        keys = session_keys(s3)
        for role in get_args(StoreRole):
            files = {"accessKey": keys.access_key, "secretKey": keys.secret_key}
            give_version(job.paths, role, **files, sessionToken=keys.session_token or "")
        remove_user(s3, user)

    class Exchanging(Silent):
        exchanged = False

        def beat(self, activity: Activity, **_: object) -> None:
            if activity is Activity.CHECKING_MODEL and not self.exchanged:
                self.exchanged = True
                exchange()

    for role in get_args(StoreRole):
        give_keys(job.paths, role, user, secret)
    result = prepare.run(job.config(), job.paths, Exchanging())
    assert isinstance(result.payload, PreparePayload)
    assert result.payload.rows.train == 180


@on_both_stores
def test_the_same_inputs_are_prepared_once(job: Job) -> None:
    first = job.prepare()
    before = {entry.uri: entry.modified for entry in job.store.list(first.prepared)}
    assert job.prepare() == first
    other_rate = job.prepare(training__learningRate=0.001)
    assert other_rate.data_digest == first.data_digest
    assert {entry.uri: entry.modified for entry in job.store.list(first.prepared)} == before
    assert job.prepare(training__seed=1).data_digest != first.data_digest


@on_both_stores
def test_an_incomplete_folder_is_prepared_again(job: Job) -> None:
    first = job.prepare()
    job.store.delete([first.prepared + "train-00000.arrow"])
    assert job.prepare() == first
    assert len(load_prepared(job.store, first.prepared, job.paths).train) == 180


def test_no_torch_is_loaded_in_a_process_of_its_own(job: Job, tmp_path: Path) -> None:
    job.paths.config.parent.mkdir(parents=True, exist_ok=True)
    job.paths.config.write_text(job.config().model_dump_json(by_alias=True))
    program = Path(__file__).parents[1] / "programs" / "prepare.py"
    out = tmp_path / "payload.json"
    subprocess.run([sys.executable, program, job.paths.root, out], check=True, timeout=600)
    payload = PreparePayload.model_validate_json(out.read_bytes())
    assert payload == job.prepare()


GOOD = lines(*rows(200))


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "NoRows", "no rows"),
        (b"\n\n", "NoRows", "no rows"),
        (
            lines(*({"body": row["text"], "label": row["label"]} for row in rows(9))),
            "ColumnsMissing",
            "body, label",
        ),
        (lines(*({**row, "label": "a"} for row in rows(9))), "SingleClass", "only one label"),
        (GOOD + b"nonsense\n" * 3, "TooManyBadRows", "line 201 is not JSON"),
        (GOOD + b'{"text": "a", "label": ["b"]}\n' * 3, "TooManyBadRows", "'label' is a list"),
        (GOOD + b'{"text": "\xff"}\n' * 3, "DataCorrupt", "line 201 is not UTF-8"),
        (GOOD + b'{"text": "\x00"}\n' * 3, "DataCorrupt", "line 201 holds a NUL"),
        (gzip.compress(GOOD)[:-9], "DataCorrupt", "truncated"),
        (GOOD.decode().encode("utf-16"), "DataCorrupt", "UTF-16"),
        (b'{"text": "' + b"a" * 100_000_000 + b'", "label": "a"}\n', "TooManyBadRows", "line 1 is longer"),
        (lines(*rows(300)[200:]), "NoRows", "dataset.train"),
        (
            lines(*({**row, "label": row["label"].upper()} for row in rows(9))),
            "LabelUnseen",
            "(2 different",
        ),  # type: ignore[attr-defined]
        (lines(*rows(10)), "BatchTooLarge", "fewer processes"),
    ],
)
def test_training_rows_that_cannot_be_used_are_refused_and_mended_ones_are_taken(
    job: Job, data: bytes, reason: str, says: str
) -> None:
    job.put("data/train.jsonl", data)
    nodes = 16 if reason == "BatchTooLarge" else 2
    failure = job.refused(world__nodes=nodes)
    assert failure.reason == reason
    assert says in failure.message + failure.hint
    job.put("data/train.jsonl", GOOD)
    assert job.prepare().rows.train == 180


def test_a_failure_leaves_a_report_that_names_the_lines(job: Job) -> None:
    job.put("data/train.jsonl", GOOD + b"nonsense\n" * 3)
    job.put("data/test.jsonl", b"")
    failure = job.refused()
    assert "1 more error" in failure.message
    report = job.report_of(failure)
    assert [finding["code"] for finding in report["findings"]] == ["TooManyBadRows", "NoRows"]
    assert [line.split(":")[0] for line in report["findings"][0]["lines"]] == ["201", "202", "203"]


def test_a_failure_after_the_checks_also_leaves_their_findings(job: Job) -> None:
    job.put("data/train.jsonl", lines(*rows(200)) + b"nonsense\n")
    failure = job.refused(dataset__validation={"split": 0.0001}, dataset__max_bad_row_fraction=0.1)
    assert failure.reason == "SplitTooSmall"
    report = job.report_of(failure)
    assert [finding["code"] for finding in report["findings"]] == ["BadRows", "SplitTooSmall"]
    assert report["findings"][1]["message"] == failure.message


def test_a_label_that_only_test_rows_have_is_told_by_its_line_and_named_in_the_report(job: Job) -> None:
    job.put("data/test.jsonl", lines(*rows(9, first=200), {"text": "w2", "label": "c"}))
    failure = job.refused()
    assert failure.reason == "LabelUnseen"
    assert "no training row has (1 different; line 10)" in failure.message
    report = job.report_of(failure)
    (error,) = [finding for finding in report["findings"] if finding["level"] == "error"]
    assert error["lines"][0] == "10: c"
    assert [line.split(":")[0] for line in error["lines"][1:]] == ["training label 'a'", "training label 'b'"]


def test_few_bad_rows_and_rows_that_are_also_tested_are_left_out_and_counted(job: Job) -> None:
    job.put("data/train.jsonl", GOOD + b"nonsense\n" + lines(*rows(4, first=200)))
    payload = job.prepare()
    assert payload.rows.dropped == 5
    assert payload.rows.train + payload.rows.validation == 200
    report = json.loads(job.store.read(payload.report))
    assert [finding["code"] for finding in report["findings"]] == ["BadRows", "Overlap"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=st.lists(st.sampled_from(["good", "again", "tested", "junk", "label", "blank"]), max_size=40),
    tested=st.lists(st.sampled_from(["good", "again", "junk", "blank"]), max_size=12),
)
def test_every_row_of_the_files_is_in_a_split_or_left_out_for_a_reason(
    job: Job, train: list[str], tested: list[str]
) -> None:
    def written(kinds: list[str], first: int, extra: int) -> bytes:
        made = {
            "again": lines(rows(1, first)[0]),
            "tested": lines(rows(1, 200)[0]),
            "junk": b"nonsense\n",
            "label": b'{"text": "w2", "label": ["a"]}\n',
            "blank": b"\n",
        }
        unique = iter(rows(len(kinds) + extra, first))
        body = [lines(next(unique)) if kind == "good" else made[kind] for kind in kinds]
        return b"".join(body) + lines(*(next(unique) for _ in range(extra)))

    job.put("data/train.jsonl", written(train, 0, 60))
    job.put("data/test.jsonl", written(tested, 200, 10))
    payload = job.prepare(dataset__maxBadRowFraction=0.9)
    account, counts = payload.account, payload.rows
    assert account is not None
    blank = train.count("blank") + tested.count("blank")
    assert account.read == len(train) + 60 + len(tested) + 10 - blank
    assert account.read == counts.train + counts.validation + counts.test + sum(account.left_out.values())
    assert counts.dropped == sum(account.left_out.values())
    junk = train.count("junk") + train.count("label") + tested.count("junk")
    assert account.left_out.get("BadRows", 0) == junk
    prepared = load_prepared(job.store, payload.prepared, job.paths)
    assert [len(getattr(prepared, name)) for name in ("train", "validation", "test")] == [
        counts.train,
        counts.validation,
        counts.test,
    ]
    assert (account.columns, account.columns_used) == (2, 2)
    assert (account.classes, account.classes_learnt) == (2, 2)
    told = json.loads(job.store.read(payload.report))["account"]
    assert sum(told["badRowReasons"].values()) == junk
    assert told["columnNames"] == {"text": True, "label": True}


def test_every_pass_says_how_far_it_is(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.data.progress._HEARTBEAT_SECONDS", 0.0)
    said: list[tuple[Activity, int, float]] = []

    class Listening(Silent):
        def beat(self, activity: Activity, **progress: Any) -> None:
            if "rows" in progress:
                said.append((activity, progress["rows"], progress["percent"]))

    prepare.run(job.config(), job.paths, Listening())
    furthest = {activity: rows for activity, rows, _ in said}
    assert furthest == {
        Activity.CHECKING_DATA: 300,
        Activity.TOKENISING: 300,
        Activity.UPLOADING: 300,
    }
    percents = [percent for _, _, percent in said]
    assert percents == sorted(percents)
    assert {activity: percent for activity, _, percent in said} == {
        Activity.CHECKING_DATA: 40,
        Activity.TOKENISING: 80,
        Activity.UPLOADING: 99,
    }


def test_quotation_marks_in_a_tsv_take_no_row_along(job: Job) -> None:
    texts = [
        f'"{row["text"]}' if n % 20 == 5 else f'{row["text"]} "now"' if n % 20 == 8 else row["text"]
        for n, row in enumerate(rows(200))
    ]
    text = "text\tlabel\n" + "".join(f"{text}\t{'ab'[n % 2]}\n" for n, text in enumerate(texts))
    job.put("data/train.tsv", text.encode())
    payload = job.prepare(dataset__train__uri="s3://BUCKET/data/train.tsv")
    assert payload.rows.train + payload.rows.validation + payload.rows.dropped == 200
    assert payload.rows.dropped == 0
    job.put("data/train.csv", text.replace("\t", ",").encode())
    failure = job.refused(dataset__train__uri="s3://BUCKET/data/train.csv")
    assert failure.reason == "TooManyBadRows"
    assert "20 of 200 rows" in failure.message
    assert "line 7 has text between the closing quotation mark" in failure.message


def test_a_folder_of_save_to_disk_is_refused_in_one_sentence(job: Job) -> None:
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        job.put(f"data/saved/{name}", b"{\n}\n")
    failure = job.refused(dataset__train__uri="s3://BUCKET/data/saved/")
    assert failure.reason == "NoFiles"
    assert "is a folder of datasets.save_to_disk" in failure.message


def test_a_failure_repeats_which_files_were_ignored(job: Job) -> None:
    job.put("data/more/train.jsonl", b"nonsense\n")
    job.put("data/more/train.xlsx", b"")
    failure = job.refused(dataset__train__uri="s3://BUCKET/data/more/")
    assert failure.reason == "TooManyBadRows"
    assert "is no data file: train.xlsx." in failure.message


def test_csv_gzip_and_a_byte_order_mark_are_read(job: Job) -> None:
    text = "label;text\n" + "".join(f"{row['label']};{row['text']}\n" for row in rows(200))
    job.put("data/train.csv.gz", gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    payload = job.prepare(dataset__train__uri="s3://BUCKET/data/train.csv.gz")
    assert payload.rows.train == 180
    assert payload.findings.warnings == 2


def test_a_split_of_folders_and_files_knows_where_each_row_comes_from(job: Job) -> None:
    parts = {
        "more/y=2/part-0.tsv.zst": rows(40),
        "more/y=1/part-0.parquet": rows(60, first=40),
        "last.ndjson.gz": rows(100, first=100),
    }
    for key, part in parts.items():
        ending = key.split(".", 1)[1]
        write = next(write for name, write in FORMATS.items() if name.endswith("." + ending))
        job.put(key, write([{name: str(value) for name, value in row.items()} for row in part]))
    job.put("more/_SUCCESS", b"")
    train = {"uris": ["s3://BUCKET/more/", "s3://BUCKET/last.ndjson.gz"]}
    payload = job.prepare(dataset__train=train)
    assert payload.rows.model_dump() == {"train": 180, "validation": 20, "test": 100, "dropped": 0}
    prepared = load_prepared(job.store, payload.prepared, job.paths)
    paths = [prepared.train.location(index) for index in range(180)]
    for (key, line), tokens in zip(paths, map(prepared.train.row, range(180)), strict=True):
        text = str(parts[key][line - (2 if "tsv" in key else 1)]["text"])
        assert [f"w{token}" for token in tokens] == text.split()
    assert {key for key, _ in paths} == set(parts)
    assert prepared.test.location(0) == ("test.jsonl", 1)
    report = json.loads(job.store.read(payload.report))
    assert [finding["code"] for finding in report["findings"]] == ["FilesIgnored", "FileNote"]
    assert [file["uri"].removeprefix(f"s3://{job.bucket}/") for file in report["files"]["train"]] == [
        "more/y=1/part-0.parquet",
        "more/y=2/part-0.tsv.zst",
        "last.ndjson.gz",
    ]


def test_the_same_rows_in_any_format_come_to_the_same_tokens(job: Job) -> None:
    texts = [{name: str(value) for name, value in row.items()} for row in rows(200)]
    first = load_prepared(job.store, job.prepare().prepared, job.paths)
    for name, write in FORMATS.items():
        job.put(f"same/{name}", write(texts))
        payload = job.prepare(dataset__train__uri=f"s3://BUCKET/same/{name}")
        again = load_prepared(job.store, payload.prepared, job.paths)
        for split in ("train", "validation"):
            one, other = getattr(first, split), getattr(again, split)
            assert np.array_equal(one.tokens, other.tokens), name
            assert np.array_equal(one.labels, other.labels), name


def test_the_order_of_files_is_part_of_what_was_prepared(job: Job) -> None:
    job.put("a.jsonl", lines(*rows(100)))
    job.put("b.jsonl", lines(*rows(100, first=100)))
    forth, back = (
        job.prepare(dataset__train={"uris": [f"s3://BUCKET/{name}.jsonl" for name in order]})
        for order in ("ab", "ba")
    )
    assert forth.data_digest != back.data_digest
    assert job.prepare(dataset__train={"uris": ["s3://BUCKET/a.jsonl", "s3://BUCKET/b.jsonl"]}) == forth


def test_findings_of_several_files_name_file_and_line(job: Job) -> None:
    job.put("data/part/a.jsonl", lines(*rows(150)))
    job.put("data/part/b.jsonl", lines(*rows(50, first=150), *rows(1), *rows(1, first=200)) + b"nonsense\n")
    payload = job.prepare(dataset__train={"uri": "s3://BUCKET/data/part/"})
    report = json.loads(job.store.read(payload.report))
    found = {finding["code"]: finding for finding in report["findings"]}
    assert {code: finding["file"] for code, finding in found.items()} == dict.fromkeys(
        ("BadRows", "Overlap", "Duplicates"), "dataset.train (2 files)"
    )
    assert found["BadRows"]["lines"] == ["b.jsonl:53: is not JSON (Expecting value: character 1)"]
    assert found["Overlap"]["lines"][0].startswith("b.jsonl:52: w")
    assert found["Duplicates"]["lines"] == ["a.jsonl:1, b.jsonl:51: same text"]


def replaced(name: str, data: bytes | None) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files.pop(name, None)
        if data is not None:
            files[name] = data

    return change


def sharded(files: dict[str, bytes]) -> None:
    del files["model.safetensors"]
    files["model-1.safetensors"] = save({"a": np.zeros(2, dtype=np.float32)})
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weights}).encode()


def pickled(files: dict[str, bytes]) -> None:
    files["pytorch_model.bin"] = files.pop("model.safetensors")


def truncated(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = files["model.safetensors"][:-4]


def other_vocabulary(files: dict[str, bytes]) -> None:
    files["config.json"] = files["config.json"].replace(b'"vocab_size": 50', b'"vocab_size": 40')


def other_tokenizer(files: dict[str, bytes]) -> None:
    document = json.loads(files["tokenizer.json"])
    document["model"]["vocab"]["w50"] = 50
    files["tokenizer.json"] = json.dumps(document).encode()


def quantised(files: dict[str, bytes]) -> None:
    document = json.loads(files["config.json"])
    document["quantization_config"] = {"quant_method": "awq", "bits": 4}
    files["config.json"] = json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (pickled, "PickleWeights", "pytorch_model.bin"),
        (sharded, "ModelShardMissing", "model-2.safetensors"),
        (truncated, "ModelCorrupt", "its header describes"),
        (replaced("model.safetensors", b"\xff" * 100), "ModelCorrupt", "no safetensors file"),
        (replaced("model.safetensors", b""), "ModelCorrupt", "no safetensors file"),
        (replaced("tokenizer.json", None), "TokenizerMissing", "no tokenizer.json"),
        (replaced("tokenizer.json", b"{}"), "TokenizerCorrupt", "cannot be loaded"),
        (replaced("modeling_own.py", b"print()"), "RemoteCode", "modeling_own.py"),
        (
            replaced("config.json", b'{"model_type": "bert", "auto_map": {"A": "b.C"}}'),
            "RemoteCode",
            "auto_map",
        ),
        (replaced("config.json", b'{"model_type": "made-up"}'), "ModelUnsupported", "'made-up'"),
        (replaced("config.json", None), "ModelMissing", "no config.json"),
        (other_tokenizer, "TokenizerMismatch", "ends at 49"),
        (other_vocabulary, "ModelIncomplete", "50x16 in the files and 40x16 by config.json"),
        (quantised, "ModelUnsupported", "model.uri: the weights are quantised (awq)"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_and_a_mended_one_is_taken(
    job: Job, tiny_base: Path, change: Callable[[dict[str, bytes]], None], reason: str, says: str
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    good = dict(files)
    change(files)
    job.store.delete([f"s3://{job.bucket}/model/{name}" for name in good])
    for name, data in files.items():
        job.put(f"model/{name}", data)
    failure = job.refused()
    assert failure.reason == reason
    assert says in failure.message
    job.store.delete([f"s3://{job.bucket}/model/{name}" for name in files])
    for name, data in good.items():
        job.put(f"model/{name}", data)
    assert job.prepare().rows.train == 180


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"model__uri": "s3://BUCKET/../model"}, "UriInvalid", "model.uri"),
        ({"model__uri": "s3://BUCKET/%2e%2e/model"}, "UriInvalid", "model.uri"),
        ({"model__uri": "s3://"}, "UriInvalid", "no bucket"),
        ({"dataset__train__uri": "s3://user:word@BUCKET/x"}, "UriInvalid", "dataset.train.uri"),
        ({"dataset__train__uri": "s3://BUCKET"}, "UriInvalid", "dataset.train.uri"),
        (
            {"dataset__train__uri": "s3://BUCKET/data/"},
            "FileTwice",
            "dataset.train and dataset.test both hold",
        ),
        ({"dataset__train__uri": "s3://BUCKET/none/"}, "NoFiles", "dataset.train.uri: there is no data file"),
        ({"dataset__train__uri": "s3://BUCKET/data"}, "ObjectMissing", "is a folder"),
        (
            {"dataset__test": {"uris": ["s3://BUCKET/tuned/"]}, "output": "s3://BUCKET/tuned/x/"},
            "OutputIsInput",
            "dataset.test.uris[0]",
        ),
        ({"dataset__train__uri": "s3://BUCKET/data/none.jsonl"}, "ObjectMissing", "none.jsonl"),
        ({"dataset__train__uri": "s3://no-such-bucket/x.jsonl"}, "BucketMissing", "no-such-bucket"),
        ({"model__uri": "s3://BUCKET/none"}, "ModelMissing", "no files"),
        ({"output": "s3://BUCKET/model/"}, "OutputIsInput", "model.uri"),
        ({"output": "s3://BUCKET/model/tuned/"}, "OutputIsInput", "model.uri"),
        ({"output": "s3://BUCKET/data/"}, "OutputIsInput", "dataset.train.uri"),
        ({"runs": "s3://BUCKET/"}, "OutputIsInput", "model.uri"),
        ({"training__batchSize": 33, "training__microBatchSize": 8}, "BatchIndivisible", "32 or 48"),
        ({"training__batchSize": 1}, "BatchTooSmall", "2 or more"),
        ({"training__batchSize": 512}, "BatchTooLarge", "180"),
        ({"training__maxLength": 33}, "MaxLengthTooLong", "32 tokens"),
        ({"dataset__validation": {"split": 0.0001}}, "SplitTooSmall", "dataset.validation.split"),
        ({"method": {"kind": "LoRA", "targetModules": ["q_proj"]}}, "TargetModulesUnknown", "query"),
        ({"method": {"kind": "FreezeLayers", "trainLast": 3}}, "TooManyLayers", "the model has 2"),
    ],
)
def test_a_job_that_asks_for_the_impossible_is_refused(
    job: Job, changes: dict[str, Any], reason: str, says: str
) -> None:
    failure = job.refused(**changes)
    assert failure.reason == reason
    assert says in failure.message + failure.hint


@pytest.fixture
def parent(job: Job, tiny_base: Path) -> dict[str, Any]:
    """`model` of a job whose base model the job languages has published, itself made from another."""
    origin = Ancestor(uri="s3://models/minilm", digest="sha256:" + "1" * 64)
    manifest = Manifest.of(
        tiny_base,
        job=JobRef(namespace="ns", name="languages", uid="9a4f", generation=1),
        created="2026-01-01T12:00:00+00:00",
        base_model=origin.digest,
        data="sha256:" + "2" * 64,
        config="sha256:" + "3" * 64,
        lineage=(origin,),
    )
    job.put("model/manifest.json", manifest.encode())
    digest = "sha256:" + sha256(manifest.encode()).hexdigest()
    publisher = {"namespace": "ns", "name": "languages", "uid": "9a4f", "manifest": digest}
    return {"uri": f"s3://{job.bucket}/model/", "parent": publisher}


def test_what_a_model_descends_from_is_known_after_its_base_was_deleted(
    job: Job, parent: dict[str, Any]
) -> None:
    payload = job.prepare(model=parent)
    job.store.delete([entry.uri for entry in job.store.list(parent["uri"])])
    origin, base = lineage_of(job.config(model=parent).run, job.store, payload.model_digest)
    assert (origin.uri, origin.published_by) == ("s3://models/minilm", None)
    assert (base.uri, base.digest) == (parent["uri"], payload.model_digest)
    assert base.published_by
    assert base.published_by.model_dump() == parent["parent"]


def test_the_same_model_without_a_parent_descends_from_its_folder_alone(job: Job) -> None:
    payload = job.prepare()
    (base,) = lineage_of(job.config().run, job.store, payload.model_digest)
    assert base == Ancestor(uri=f"s3://{job.bucket}/model", digest=payload.model_digest)


def test_a_lineage_that_somebody_took_away_is_not_made_up(job: Job, parent: dict[str, Any]) -> None:
    payload, run = job.prepare(model=parent), job.config(model=parent).run
    job.store.delete([entry.uri for entry in job.store.list(f"{run.runs}lineage/")])
    with pytest.raises(StageFailure, match="LineageMissing"):
        lineage_of(run, job.store, payload.model_digest)


def test_a_base_that_was_published_anew_is_refused_before_any_data_is_read(
    job: Job, parent: dict[str, Any]
) -> None:
    manifest = Manifest.model_validate_json(job.store.read(parent["uri"] + "manifest.json"))
    anew = manifest.model_copy(update={"created": "2026-02-02T12:00:00+00:00"})
    job.put("model/manifest.json", anew.encode())
    failure = job.refused(model=parent, dataset__train__uri="s3://BUCKET/data/none.jsonl")
    assert failure.reason == "ModelChanged"
    assert "FineTuneJob ns/languages (uid 9a4f)" in failure.message
    assert "apply it again" in failure.hint


def test_a_file_that_was_changed_below_an_unchanged_manifest_is_named(
    job: Job, parent: dict[str, Any]
) -> None:
    weights = bytearray(job.store.read(parent["uri"] + "model.safetensors"))
    weights[-1] ^= 1
    job.put("model/model.safetensors", bytes(weights))
    failure = job.refused(model=parent)
    assert failure.reason == "ModelChanged"
    assert "model.safetensors is not the file" in failure.message
    assert "tokenizer" not in failure.message


def test_a_base_that_is_not_there_says_in_which_store_it_was_looked_for(
    job: Job, parent: dict[str, Any]
) -> None:
    job.store.delete([parent["uri"] + "manifest.json"])
    failure = job.refused(model=parent)
    assert failure.reason == "ModelMissing"
    assert job.access.endpoint in failure.message
    assert "model.storage" in failure.hint


def test_a_base_of_another_release_is_refused_with_the_way_out(job: Job, parent: dict[str, Any]) -> None:
    job.put("model/manifest.json", b'{"contractVersion": "2.0"}')
    digest = "sha256:" + sha256(b'{"contractVersion": "2.0"}').hexdigest()
    failure = job.refused(model=parent | {"parent": parent["parent"] | {"manifest": digest}})
    assert failure.reason == "ModelUnusable"
    assert "model.uri" in failure.hint


def test_nothing_is_written_into_the_folder_of_a_base_job(job: Job, parent: dict[str, Any]) -> None:
    assert job.refused(model=parent, output="s3://BUCKET/model/tuned/").reason == "OutputIsInput"


@on_both_stores
def test_the_model_of_another_job_is_not_overwritten_and_ones_own_is(job: Job) -> None:
    manifest = f"tuned/ns/job/{UID[:8]}/manifest.json"
    job.put(manifest, json.dumps({"job": {"namespace": "ns", "name": "older", "uid": "another"}}).encode())
    failure = job.refused()
    assert failure.reason == "OutputExists"
    assert "ns/older (uid another)" in failure.message
    job.put(manifest, json.dumps({"job": {"namespace": "ns", "name": "job", "uid": UID}}).encode())
    assert job.prepare().rows.train == 180


@on_both_stores
def test_an_output_that_may_not_be_written_is_found_before_any_work(
    job: Job, s3: ObjectStore, tmp_path: Path, s3_admin: Minio
) -> None:
    reading = {"": ["s3:ListBucket"], "*": ["s3:GetObject"]}
    give_keys(job.paths, "output", *add_user(s3, job.bucket, reading, tmp_path))
    before = job.keys()
    failure = job.refused()
    assert failure.reason == "StorageDenied"
    assert "write" in failure.message
    assert job.keys() == before
    assert s3_admin.bucket_exists(job.bucket)


def test_white_space_around_a_key_is_in_the_report(job: Job, s3: ObjectStore) -> None:
    give_keys(job.paths, "data", s3.access_key, s3.secret_key + "\n")
    payload = job.prepare()
    report = json.loads(job.store.read(payload.report))
    assert "secretKey of the data store" in report["findings"][0]["message"]


def test_a_table_with_a_header_only_has_no_rows(job: Job) -> None:
    job.put("data/train.csv", b"text,label\n")
    failure = job.refused(dataset__train__uri="s3://BUCKET/data/train.csv")
    assert failure.reason == "NoRows"
    assert "data/train.csv" in failure.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model__uri": "s3://BUCKET/%2e%2e/model"}, "UriInvalid"),
        ({"dataset__train__uri": "s3://BUCKET/data/none.jsonl"}, "ObjectMissing"),
        ({"dataset__train__uri": "s3://no-such-bucket/x.jsonl"}, "BucketMissing"),
        ({"output": "s3://BUCKET/data/"}, "OutputIsInput"),
        ({"training__batchSize": 1}, "BatchTooSmall"),
        ({"dataset__columns": {"text": "body", "label": "queue"}}, "ColumnsMissing"),
    ],
)
def test_a_job_that_was_refused_is_taken_once_its_spec_is_corrected(
    job: Job, changes: dict[str, Any], reason: str
) -> None:
    assert job.refused(**changes).reason == reason
    assert job.prepare().rows.train == 180


def test_the_batches_that_prepare_says_would_do_do(job: Job) -> None:
    failure = job.refused(training__batchSize=33, training__microBatchSize=8)
    assert "33 rows cannot be divided into micro-batches of 8 rows" in failure.message
    said = [int(word) for word in failure.hint.replace(".", "").split() if word.isdecimal()]
    assert said == [32, 48]
    for batch in said:
        chosen = job.prepare(training__batchSize=batch, training__microBatchSize=8).chosen
        assert chosen.batch_size == batch


@on_both_stores
def test_forbidden_data_and_a_missing_bucket_are_told_apart_and_the_right_keys_are_taken(
    job: Job, s3: ObjectStore, tmp_path: Path
) -> None:
    give_keys(job.paths, "data", *add_user(s3, job.bucket, {}, tmp_path))
    denied = job.refused()
    assert (denied.failure, denied.reason) == (FailureClass.STORAGE, "StorageDenied")
    assert f"s3://{job.bucket}/data/" in denied.message
    assert job.access.endpoint in denied.message
    give_keys(job.paths, "data", s3.access_key, s3.secret_key)
    assert job.refused(dataset__train__uri="s3://no-such-bucket/x.jsonl").reason == "BucketMissing"
    assert job.prepare().rows.train == 180


def test_a_wrong_authority_is_named_and_the_right_one_is_taken_with_any_line_ends(
    job: Job, s3: ObjectStore
) -> None:
    assert s3.ca_file
    give_authority(job.paths, "model", pki.certificate_pem(pki.new_authority("another").certificate))
    failure = job.refused()
    assert failure.reason == "StorageCertificate"
    assert "authority is unknown" in failure.message
    assert "caBundleRef" in failure.hint
    give_authority(job.paths, "model", s3.ca_file.read_bytes().replace(b"\n", b"\r\n"))
    assert job.prepare().rows.train == 180


def test_an_empty_key_names_what_to_look_at_and_a_full_one_is_taken(job: Job, s3: ObjectStore) -> None:
    give_keys(job.paths, "output", s3.access_key, "\n")
    failure = job.refused()
    assert failure.reason == "CredentialsMissing"
    assert "secretKey of the output store's Secret is empty" in failure.message
    assert "storage.secretRef" in failure.hint
    give_keys(job.paths, "output", s3.access_key, s3.secret_key)
    assert job.prepare().rows.train == 180


def test_nan_in_a_column_of_numbers_is_a_missing_label(job: Job) -> None:
    labelled = [{**row, "label": float(n % 2)} for n, row in enumerate(rows(200))]
    labelled[7]["label"], labelled[9]["label"] = float("nan"), None
    job.put("data/train.parquet", FORMATS["rows.parquet"](labelled))
    tested = [{**row, "label": n % 2} for n, row in enumerate(rows(20, first=200))]
    job.put("data/test.jsonl", lines(*tested))
    payload = job.prepare(
        dataset__train__uri="s3://BUCKET/data/train.parquet", dataset__maxBadRowFraction=0.1
    )
    assert payload.rows.dropped == 2
    report = json.loads(job.store.read(payload.report))
    assert report["labels"].keys() == {"0", "1"}
    (finding,) = [finding for finding in report["findings"] if finding["code"] == "BadRows"]
    assert finding["lines"] == ["8: 'label' is NaN or invisible: a missing label", "10: 'label' is empty"]
