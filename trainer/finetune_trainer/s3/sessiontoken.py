"""PURE: what the token of temporary keys says of its own end."""

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

_JWT_PARTS = 3


@dataclass(frozen=True)
class SessionToken:
    """A session token, without the token itself."""

    expires: datetime | None
    """None where the token does not tell, as those of AWS."""
    expired: bool = False

    @classmethod
    def read(cls, token: str, now: datetime) -> Self:
        """Reads a token that is a JWT, as those of MinIO; its signature is the store's business."""
        try:
            payload = token.split(".")[1] if token.count(".") == _JWT_PARTS - 1 else ""
            claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            expires = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError):
            return cls(None)
        return cls(expires, expires <= now)
