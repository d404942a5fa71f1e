"""PURE: reads the expiry time of the session token of temporary credentials."""

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

_JWT_PARTS = 3


@dataclass(frozen=True)
class SessionToken:
    """The expiry of a session token, without the token itself."""

    expires: datetime | None
    """Expiry time (UTC); None if the token does not contain the time, like the tokens of AWS."""
    expired: bool = False
    """Whether the token has expired."""

    @classmethod
    def read(cls, token: str, now: datetime) -> Self:
        """Reads the expiry time of a token that is a JWT, like the tokens of MinIO.

        The method does not verify the signature: only the store decides whether a token is valid.

        Args:
            token: the session token.
            now: the current time (UTC).
        """
        try:
            payload = token.split(".")[1] if token.count(".") == _JWT_PARTS - 1 else ""
            claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            expires = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError):
            return cls(None)
        return cls(expires, expires <= now)
