"""The signatures of requests to the endpoint of a pod, and of the answers.

The operator asks for the progress, and the supervisors of a gang send reports to the supervisor with index 0.
The operator and the pods of a Job share a random key. The key signs each request and each answer
(HMAC-SHA256, RFC 2104) and is never sent. Every request has a new nonce, which the signature of the answer
includes, so that an answer to an earlier request is not valid. A pod of another tenant can neither read the
progress, send a report, nor answer in the place of a pod that had the same address.
"""

import hmac
import secrets

NONCE_HEADER = "Finetune-Nonce"
"""Header of the request: a random hexadecimal number."""
SIGNATURE_HEADER = "Finetune-Signature"
"""Header of the request and of the answer: a signature as a hexadecimal number."""


def draw_key() -> str:
    """Returns a new random key of 256 bits, as a hexadecimal number."""
    return secrets.token_hex(32)


def draw_nonce() -> str:
    """Returns a new random nonce of 128 bits, as a hexadecimal number."""
    return secrets.token_hex(16)


def sign_request(key: str, nonce: str) -> str:
    """Returns the signature of a request for the progress."""
    return _sign(key, b"request", nonce, b"")


def sign_answer(key: str, nonce: str, body: bytes) -> str:
    """Returns the signature of an answer with a body to the request with this nonce."""
    return _sign(key, b"answer", nonce, body)


def sign_report(key: str, nonce: str, body: bytes) -> str:
    """Returns the signature of the report of a supervisor to the supervisor with index 0."""
    return _sign(key, b"report", nonce, body)


def sign_order(key: str, nonce: str, body: bytes) -> str:
    """Returns the signature of the answer to the report with this nonce."""
    return _sign(key, b"order", nonce, body)


def is_valid(signature: str, expected: str) -> bool:
    """Whether a received signature is the expected one; the duration does not depend on the difference."""
    return hmac.compare_digest(signature.encode(), expected.encode())


def _sign(key: str, kind: bytes, nonce: str, body: bytes) -> str:
    return hmac.digest(key.encode(), b"\n".join((kind, nonce.encode(), body)), "sha256").hex()
