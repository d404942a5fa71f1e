"""Formats numbers for people. Pure."""

from finetune_trainer.contract import Interval

_FEW_DIGITS_FROM = 10
_MINUS = "\N{MINUS SIGN}"


def measured(value: float, *, signed: bool = False) -> str:
    """A metric: four decimals, two where it is large."""
    digits = 4 if abs(value) < _FEW_DIGITS_FROM else 2
    shown = f"{value:{'+' if signed else ''},.{digits}f}"
    # What rounds to nothing has no sign.
    return shown.lstrip("+-") if float(shown.replace(",", "")) == 0 else shown.replace("-", _MINUS)


def interval(of: Interval, *, signed: bool = False) -> str:
    """Both ends."""
    return f"{measured(of.low, signed=signed)} to {measured(of.high, signed=signed)}"


def short(value: float) -> str:
    """A tick of an axis, or a value that only gives an idea."""
    if value and not 1e-3 <= abs(value) < 1e5:  # noqa: PLR2004 - where digits become unreadable
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", _MINUS)
    return (
        f"{value:,.6g}".replace("-", _MINUS) if value == round(value) else f"{value:.4g}".replace("-", _MINUS)
    )


def count(number: int) -> str:
    """With separators."""
    return f"{number:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """In the two largest units that matter."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.0f} s"  # noqa: PLR2004


def size(octets: int) -> str:
    """Bytes, decimal units."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
