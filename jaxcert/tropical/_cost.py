"""What an enumeration will cost, said before it starts."""

from jaxcert import _checks


def check(what: str, needed: float, *, max_bytes: int, detail: str) -> None:
    """Raise `ValueError`, with the numbers, when `needed` bytes are beyond `max_bytes`."""
    max_bytes = _checks.positive_integer("max_bytes", max_bytes, maximum=2**63 - 1)
    if needed > max_bytes:
        raise ValueError(
            f"generators must give {what} that fit into max_bytes={max_bytes}, got {detail}: about "
            f"{needed / 2**30:.3g} GiB"
        )
