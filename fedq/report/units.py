"""Numbers as people read them."""


def size(n: float) -> str:
    """Bytes in SI units with four significant digits at most.

    >>> size(207_204), size(999), size(1_500_000_000)
    ('207.2 kB', '999 B', '1.5 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.4g} {unit}"
    return f"{n:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> duration(3.21), duration(200), duration(7300)
    ('3.2 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(value: float | None) -> str:
    """A share with four digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"
