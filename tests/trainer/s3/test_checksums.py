import hashlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.s3.checksums import EtagDigest, Stated, even_parts, judge, stated

ETAG = "5d41402abc4b2a76b9719d911017c592"
HELLO = "sha256:" + hashlib.sha256(b"hello").hexdigest()
STATED = b64encode(hashlib.sha256(b"hello").digest()).decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": f'"{ETAG}"'}, Stated(etag=ETAG)),
        ({"etag": f'"{ETAG}-12"'}, Stated(etag=f"{ETAG}-12")),
        ({"etag": ETAG}, Stated(etag=ETAG)),
        ({}, Stated()),
        ({"etag": '""'}, Stated()),
        ({"etag": '"CRC64NVME-M3eFcAZSQlc="'}, Stated()),
        ({"etag": '"0x8D4BCC2E4835CD0"'}, Stated()),
        ({"etag": f'W/"{ETAG}"'}, Stated()),
        ({"etag": f'"{ETAG}"', "x-amz-server-side-encryption": "AES256"}, Stated(etag=ETAG)),
        ({"etag": f'"{ETAG}"', "x-amz-server-side-encryption": "aws:kms"}, Stated()),
        ({"etag": f'"{ETAG}"', "x-amz-server-side-encryption": "aws:kms:dsse"}, Stated()),
        ({"etag": f'"{ETAG}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"}, Stated()),
        ({"etag": f'"{ETAG}"', "x-amz-checksum-sha256": STATED}, Stated(HELLO, ETAG)),
        ({"x-amz-checksum-sha256": STATED, "x-amz-server-side-encryption": "aws:kms"}, Stated(HELLO)),
        ({"x-amz-checksum-sha256": f"{STATED}-3"}, Stated()),
        ({"x-amz-checksum-sha256": "nonsense"}, Stated()),
    ],
)
def test_only_checksums_of_the_whole_content_are_read_from_the_headers(
    headers: dict[str, str], expected: Stated
) -> None:
    assert stated(headers) == expected


@pytest.mark.parametrize(
    ("first", "size", "count", "sizes"),
    [
        (5, 12, 3, (5, 5, 2)),
        (5, 15, 3, (5, 5, 5)),
        (5, 16, 3, None),
        (5, 10, 3, None),
        (12, 12, 2, None),
        (7, 7, 1, (7,)),
    ],
)
def test_parts_are_even_if_only_the_last_part_is_smaller(
    first: int, size: int, count: int, sizes: tuple[int, ...] | None
) -> None:
    assert even_parts(first, size, count) == sizes


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 20))
def test_the_etag_does_not_depend_on_the_sizes_of_the_updates(parts: list[bytes], piece: int) -> None:
    content = b"".join(parts)
    digest = EtagDigest([len(part) for part in parts])
    for start in range(0, len(content), piece):
        digest.update(content[start : start + piece])
    of_parts = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()  # noqa: S324
    assert digest.agrees(f"{of_parts}-{len(parts)}")
    assert not digest.agrees(f"{of_parts}-{len(parts) + 1}")
    assert digest.agrees(hashlib.md5(content).hexdigest()) is (len(parts) == 1)  # noqa: S324


def of(content: bytes, *parts: int) -> EtagDigest:
    digest = EtagDigest(parts)
    digest.update(content)
    return digest


@pytest.mark.parametrize(
    ("states", "etag", "verdict"),
    [
        (Stated(), None, "right"),
        (Stated(sha256=HELLO), None, "right"),
        (Stated(sha256="sha256:" + "0" * 64), None, "wrong"),
        (Stated(sha256=HELLO, etag="0" * 32), of(b"hello", 5), "right"),
        (Stated(etag=ETAG), of(b"hello", 5), "right"),
        (Stated(etag=ETAG), of(b"hellu", 5), "wrong"),
        (Stated(etag=ETAG + "-2"), of(b"hello", 3, 2), "doubtful"),
        (Stated(etag=ETAG + "-2"), None, "right"),
    ],
)
def test_the_strongest_checksum_of_the_store_decides(
    states: Stated, etag: EtagDigest | None, verdict: str
) -> None:
    assert judge(states, HELLO, etag) == verdict
