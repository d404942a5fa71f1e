import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from finetune_trainer.contract import (
    CONTRACT_VERSION,
    MAX_MESSAGE_BYTES,
    Account,
    Best,
    CheckpointRef,
    Chosen,
    ContractError,
    Evaluation,
    ExitCode,
    FailureClass,
    Findings,
    Interval,
    MemoryEstimate,
    PreparePayload,
    Progress,
    RankFile,
    ResultRef,
    RowCounts,
    Scores,
    SecondsByUse,
    Stage,
    TerminationMessage,
    TrainPayload,
    acts_on_terminals,
    printable,
    speaks,
)

DIGEST = "sha256:" + "a" * 64
LONGEST_URI = "s3://" + "b" * 63 + "/" + "k" * 955
UGLY = -0.12345678901234567


def message(**more: object) -> TerminationMessage:
    plain = {
        "stage": Stage.TRAIN,
        "attempt": 1,
        "config_digest": DIGEST,
        "failure": FailureClass.SUCCESS,
        "reason": "Done",
        "message": "done",
    }
    return TerminationMessage(**{**plain, **more})


def longest_train() -> TrainPayload:
    interval = Interval(value=UGLY, low=UGLY, high=UGLY)
    names = ("accuracy", "macroF1", "microF1", "weightedF1", "mcc")
    scores = Scores(primary=UGLY, metrics=dict.fromkeys(names, interval))
    return TrainPayload(
        best=Best(step=10**9, metric=UGLY),
        evaluation=Evaluation(
            primary_metric="weightedF1",
            rows=10**9,
            majority=scores,
            baseline=scores,
            tuned=scores,
            delta=scores,
        ),
        staging=LONGEST_URI,
        peak_memory_bytes=10**13,
        gpu_seconds=10**10,
    )


def longest_prepare() -> PreparePayload:
    return PreparePayload(
        data_digest=DIGEST,
        model_digest=DIGEST,
        prepared=LONGEST_URI,
        rows=RowCounts(train=10**10, validation=10**10, test=10**10, dropped=10**10),
        labels=10**6,
        tokens=10**13,
        truncated_tokens=10**13,
        parameters=10**12,
        chosen=Chosen(
            epochs=10**4,
            batch_size=10**6,
            micro_batch_size=10**6,
            accumulation_steps=10**6,
            world_size=10**6,
            learning_rate=0.12345678901234567,
            max_length=10**6,
            zero_stage=3,
            total_steps=10**10,
            model_dtype="bfloat16",
            activation_checkpointing=True,
            offload="OptimizerAndParameters",
            gathered_parameters=10**9,
        ),
        memory=MemoryEstimate(process=10**14, train=10**14, publish=10**14, scratch=10**14),
        findings=Findings(errors=10**9, warnings=10**9),
        report=LONGEST_URI,
        account=Account(
            read=10**11,
            left_out={f"ReasonOfTwentyFour{number:06d}": 10**10 for number in range(6)},
            repeated=10**10,
            columns=10**6,
            columns_used=10,
            classes=10**5,
            classes_learnt=10**5,
        ),
    )


def test_a_micro_batch_is_a_number_of_rows_or_a_budget_of_tokens() -> None:
    stored = longest_prepare().chosen.model_dump(exclude={"micro_batch_tokens"})
    assert Chosen.model_validate(stored).micro_batch_tokens is None, "an earlier release had rows only"
    for change in ({"micro_batch_size": None}, {"micro_batch_tokens": 4096}):
        with pytest.raises(ValidationError, match="either micro_batch_size or micro_batch_tokens"):
            Chosen.model_validate(stored | change)


@pytest.mark.parametrize("payload", [longest_train(), longest_prepare()])
@pytest.mark.parametrize("letter", ["x", "é", "\x01", '"', "\U0001f600"])
def test_the_longest_message_fits_and_keeps_its_payload(payload: object, letter: str) -> None:
    of_train = {
        "checkpoint": {"step": 10**9, "digest": DIGEST},
        "resumed_from_step": 10**9,
        "seconds": dict.fromkeys(SecondsByUse.model_fields, 10**8),
        "in_place_restarts": {"count": 20, "class": "Communication", "reason": "R" * 64, "lost_steps": 2**53},
    }
    long = message(
        reason="R" * 64,
        message=letter * 1024,
        hint=letter * 512,
        place=letter * 128,
        step=10**9,
        epoch=UGLY,
        peak_memory_bytes=10**14,
        **of_train if isinstance(payload, TrainPayload) else {},
        payload=payload,
        result=ResultRef(uri=LONGEST_URI, digest=DIGEST),
    )
    data = long.encode()
    assert len(data) <= MAX_MESSAGE_BYTES
    back = TerminationMessage.decode(data)
    assert back.payload is not None
    assert back.payload.kind == long.payload.kind
    assert getattr(back.payload, "memory", None) == getattr(long.payload, "memory", None)
    assert (back.reason, back.step, back.config_digest) == (long.reason, long.step, DIGEST)


def test_other_metrics_are_left_out_before_the_result_reference() -> None:
    result = ResultRef(uri=LONGEST_URI, digest=DIGEST)
    checkpoint = CheckpointRef(step=10**9, digest=DIGEST)
    long = message(payload=longest_train(), result=result, checkpoint=checkpoint, message="m" * 1024)
    back = TerminationMessage.decode(long.encode())
    assert back.result == result
    assert isinstance(back.payload, TrainPayload)
    assert set(back.payload.evaluation.baseline.metrics) == {"weightedF1"}


def test_a_message_within_the_limit_keeps_all_digits() -> None:
    payload = longest_train().model_copy(update={"staging": "s3://b/staging/"})
    back = TerminationMessage.decode(message(payload=payload).encode())
    assert back.payload == payload


def test_texts_are_shortened_before_metrics() -> None:
    long = message(message="m" * 1024, hint="h" * 512, payload=longest_train())
    back = TerminationMessage.decode(long.encode())
    assert isinstance(back.payload, TrainPayload)
    assert len(back.payload.evaluation.majority.metrics) == 5
    assert back.message == long.message
    assert len(back.hint) < len(long.hint)


@given(some.text(max_size=1024), some.text(max_size=512))
def test_every_text_is_encoded_and_decoded(text: str, hint: str) -> None:
    back = TerminationMessage.decode(message(message=text, hint=hint).encode())
    assert printable(text).startswith(back.message.removesuffix("..."))
    if len(text.encode()) < 500 and len(hint.encode()) < 500 and text.isprintable() and hint.isprintable():
        assert (back.message, back.hint) == (text, hint)


@given(some.text(max_size=1024))
def test_no_text_contains_terminal_controls(text: str) -> None:
    for shown in (TerminationMessage.decode(message(message=text).encode()).message, printable(text)):
        assert not any(map(acts_on_terminals, shown))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b \u00e9 \u4e2d \U0001f600 \u00a0", "a b \u00e9 \u4e2d \U0001f600 \u00a0"),
        ("\x1b[31m\r\n\x7f\x9b", r"\x1b[31m\r\n\x7f\x9b"),
        ("\u202e\u2066\u200b\ufeff\u2028", r"\u202e\u2066\u200b\ufeff\u2028"),
        ("\ue000\ud800\U000e0001", r"\ue000\ud800\U000e0001"),
    ],
)
def test_terminal_controls_become_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_ends_can_be_kept() -> None:
    assert printable("a\n\tb\r\n", keep="\n\t") == "a\n\tb\\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "contract version None"),
        (b"null", "contract version None"),
        (b"{" * 3000, "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b'{"payload":' * 300, "not JSON"),
        (b"x" * 5000, "5000 bytes"),
        (b'{"contractVersion": "2.0"}', "contract version '2.0'"),
        (b'{"contractVersion": 1}', "contract version 1"),
        (b'{"contractVersion": "1.0"}', "stage"),
        (b'\xff{"contractVersion": "1.0"}', "not JSON"),
    ],
)
def test_the_error_names_the_defect_of_a_message(data: bytes, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        TerminationMessage.decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "not camel"},
        {"attempt": 0},
        {"class": "Nonsense"},
        {"step": -1},
        {"epoch": 1e999},
        {"message": "x" * 1025},
        {"place": "x" * 129},
        {"unknown": 1},
        {"payload": {"kind": "Nonsense"}},
        {"result": {"uri": "u" * 1025, "digest": DIGEST}},
    ],
)
def test_a_message_with_a_field_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    document = {**json.loads(message().encode()), **change}
    with pytest.raises(ContractError):
        TerminationMessage.decode(json.dumps(document))


def test_every_failure_class_has_one_exit_code() -> None:
    assert [ExitCode.of(failure).failure for failure in FailureClass] == list(FailureClass)
    assert sorted(ExitCode) == [0, *range(2, 11)]


def test_versions_with_the_same_major_number_are_compatible() -> None:
    assert speaks("1.7")
    assert not speaks("10.0")
    assert speaks(CONTRACT_VERSION)


def test_progress_refuses_values_that_are_not_finite() -> None:
    with pytest.raises(ValidationError):
        Progress(stage=Stage.TRAIN, attempt=1, loss=float("nan"))


def test_an_encoded_rank_file_is_read_back() -> None:
    file = RankFile(pid=7, heartbeat=1.5, quiet_seconds=60, ended=2.5, failure=FailureClass.HANG, reason="X")
    assert RankFile.model_validate_json(file.model_dump_json(by_alias=True)) == file
    assert json.loads(file.model_dump_json(by_alias=True))["class"] == "Hang"
