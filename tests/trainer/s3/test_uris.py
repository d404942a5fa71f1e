import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.s3.uris import S3Uri, UriError, parse

_NAME = st.text(
    st.characters(codec="utf-8", exclude_characters="/?#\\%", exclude_categories=["C", "Z"]), min_size=1
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://host/bucket", "no s3 URI"),
        ("bucket/key", "no s3 URI"),
        ("S3://bucket/key", "no s3 URI"),
        ("s3:///key", "no bucket"),
        ("s3://", "no bucket"),
        ("s3://user:word@bucket/key", "credentials"),
        ("s3://user@bucket/key", "credentials"),
        ("s3://bucket:9000/key", "port"),
        ("s3://Bucket/key", "no bucket name"),
        ("s3://bu..cket/key", "no bucket name"),
        ("s3://../key", "no bucket name"),
        ("s3://bucket/a?versionId=1", "query"),
        ("s3://bucket/a#b", "fragment"),
        ("s3://bucket/../other", "`..`"),
        ("s3://bucket/a/..", "`..`"),
        ("s3://bucket/a/./b", "`..`"),
        ("s3://bucket/%2e%2e/other", "`..`"),
        ("s3://bucket/a/%2E%2E/b", "`..`"),
        ("s3://bucket/%252e%252e/b", "`..`"),
        ("s3://bucket/a%2f..%2fb", "`..`"),
        ("s3://bucket/a//b", "double slash"),
        ("s3://bucket//a", "double slash"),
        ("s3://bucket/a\nb", "control"),
        ("s3://bucket/a%00b", "control"),
        ("s3://bucket/a\\b", "backslash"),
        ("s3://bucket/" + "k" * 1025, "1024"),
    ],
)
def test_an_ambiguous_uri_is_refused(text: str, says: str) -> None:
    with pytest.raises(UriError, match=says):
        parse(text)


def test_the_message_does_not_contain_credentials_of_a_uri() -> None:
    with pytest.raises(UriError, match=r"s3://\.\.\.@bucket/key") as error:
        parse("s3://AKIA:hush@bucket/key")
    assert "hush" not in str(error.value)


@given(st.lists(_NAME.filter(lambda name: name not in {".", ".."}), max_size=4), st.booleans())
def test_a_key_without_special_characters_is_unchanged(parts: list[str], folder: bool) -> None:
    key = "/".join(parts) + ("/" if folder and parts else "")
    assert parse(f"s3://bucket/{key}") == S3Uri("bucket", key)


@pytest.mark.parametrize(
    ("outer", "inner", "contained"),
    [
        ("s3://bbb/a/", "s3://bbb/a/c", True),
        ("s3://bbb/a", "s3://bbb/a", True),
        ("s3://bbb", "s3://bbb/a", True),
        ("s3://bbb/a", "s3://bbb/ab", False),
        ("s3://bbb/a/", "s3://ccc/a/x", False),
        ("s3://bbb/a/c", "s3://bbb/a", False),
    ],
)
def test_contains_compares_whole_parts_of_the_key(outer: str, inner: str, contained: bool) -> None:
    assert parse(outer).contains(parse(inner)) is contained
