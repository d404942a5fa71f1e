"""PURE: formats numbers for people."""

from finetune_trainer.contract import Interval

_FEW_DIGITS_FROM = 10
_MINUS = "\N{MINUS SIGN}"


def format_metric(value: float, *, signed: bool = False) -> str:
    """Formats a metric with four decimals, or two decimals from 10 on."""
    digits = 4 if abs(value) < _FEW_DIGITS_FROM else 2
    shown = f"{value:{'+' if signed else ''},.{digits}f}"
    # A value that rounds to zero has no sign.
    return shown.lstrip("+-") if float(shown.replace(",", "")) == 0 else shown.replace("-", _MINUS)


def format_interval(of: Interval, *, signed: bool = False) -> str:
    """Formats both ends of an interval."""
    return f"{format_metric(of.low, signed=signed)} to {format_metric(of.high, signed=signed)}"


def format_short(value: float) -> str:
    """Formats an approximate value, such as the tick of an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:  # noqa: PLR2004 - where digits become unreadable
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", _MINUS)
    return (
        f"{value:,.6g}".replace("-", _MINUS) if value == round(value) else f"{value:.4g}".replace("-", _MINUS)
    )


def format_count(number: int) -> str:
    """Formats an integer with thousands separators."""
    return f"{number:,}"


def format_plural(number: int, one: str, many: str = "") -> str:
    """Formats a number with a noun: `1 row`, `2 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_duration(seconds: float) -> str:
    """Formats a duration in hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.0f} s"  # noqa: PLR2004


def format_size(octets: int) -> str:
    """Formats a number of bytes in decimal units."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
