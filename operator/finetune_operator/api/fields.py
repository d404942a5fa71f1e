"""Types of fields, and their CEL rules."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict, JsonValue

INT_OR_STRING: JsonDict = {"x-kubernetes-int-or-string": True}


def rule(cel: str, message: str, field: str | None = None) -> JsonDict:
    """A CEL rule of the schema; `field` is the path that the error of the API server names."""
    made: JsonDict = {"rule": cel, "message": message}
    if field:
        made["fieldPath"] = field
    return made


def rules(*each: JsonDict) -> ConfigDict:
    """The pydantic configuration of a model with CEL rules."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": list(each)})


def auto_or(low: int, high: int) -> Any:
    """Schema of an integer between two bounds or the word Auto."""
    return Field(
        json_schema_extra={
            **INT_OR_STRING,
            "x-kubernetes-validations": [
                rule(
                    f"type(self) == int ? self >= {low} && self <= {high} : self == 'Auto'",
                    f"must be Auto or a whole number from {low} to {high}",
                )
            ],
        }
    )


def folder(uri: str) -> str:
    """CEL: the URI of a folder with a trailing slash."""
    return f"({uri}.endsWith('/') ? {uri} : {uri} + '/')"


def data_uris(split: str) -> str:
    """CEL: the files and folders that a split of the data set names; none for a share."""
    return f"(has({split}.uris) ? {split}.uris : has({split}.uri) ? [{split}.uri] : [])"


def apart(one: str, other: str) -> str:
    """CEL: no URI of one list is also in the other, or lies in a folder of the other."""
    nested = "!(a.endsWith('/') && b.startsWith(a)) && !(b.endsWith('/') && a.startsWith(b))"
    return f"{one}.all(a, {other}.all(b, a != b && {nested}))"


def folder_of(uri: str) -> str:
    """CEL: the folder that a file lies in."""
    return f"{uri}.substring(0, {uri}.lastIndexOf('/') + 1)"


DURATION = r"^[0-9]{1,7}(s|m|h)$"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def duration(low: str, high: str) -> Any:
    """Schema of a duration between two bounds, such as 90s, 10m or 720h."""
    return Field(
        max_length=8,
        pattern=DURATION,
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
                    f"must be from {low} to {high}",
                )
            ]
        },
    )


def seconds_of(duration: str) -> int:
    """A duration such as 90s, 10m or 720h in seconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
S3_PREFIX = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/"
NO_ESCAPES: list[JsonValue] = [
    rule("!self.contains('..')", "must not contain '..'"),
    rule("!self.contains('%')", "must not contain '%': write the key itself, not percent-encoded"),
    rule("!self.substring(5).contains('//')", "must not contain an empty path segment ('//')"),
]


def s3_uri(key: str, *, at_most: int) -> Any:
    """Schema of an S3 URI: a bucket and a key of the pattern, without ambiguous spellings."""
    return Field(
        max_length=at_most,
        pattern=f"{S3_PREFIX}{key}$",
        json_schema_extra={"x-kubernetes-validations": NO_ESCAPES},
    )


DataUri = Annotated[str, s3_uri(r"[^?#@\s\\]*", at_most=1024)]
FolderUri = Annotated[str, s3_uri(r"[^?#@\s\\]*", at_most=900)]
DataUris = Annotated[
    list[DataUri],
    Field(
        min_length=1,
        max_length=64,
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.all(a, self.exists_one(b, a == b))", "must not name a file or folder twice"),
                # Rules compare every one with every other at a limited cost, and a config is an annotation.
                rule(
                    "self.map(a, size(a)).sum() <= 4096",
                    "must have at most 4096 characters together: name folders instead of files",
                ),
            ]
        },
    ),
]
ServedName = Annotated[
    str, Field(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9]([-._:/a-zA-Z0-9]*[a-zA-Z0-9])?$")
]
ModelUri = Annotated[str, s3_uri(r"[^?#@\s\\]+", at_most=1024)]
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Quantity = Annotated[
    str,
    BeforeValidator(str),
    Field(
        max_length=20,
        pattern=QUANTITY,
        json_schema_extra={
            **INT_OR_STRING,
            "pattern": QUANTITY,  # pydantic leaves it out after a validator
            "x-kubernetes-validations": [
                rule(
                    "type(self) == int ? self > 0 : self.matches('[1-9]')",
                    "must be a quantity above 0, such as 2, 500m or 8Gi",
                )
            ],
        },
    ),
]
# The API server compares a whole number with a bound cut to a whole number: 0 would pass 0.001.
Split = Annotated[
    float,
    Field(
        ge=0.001,
        le=0.9,
        json_schema_extra={"x-kubernetes-validations": [rule("self >= 0.001", "must be from 0.001 to 0.9")]},
    ),
]
