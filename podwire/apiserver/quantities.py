"""Quantities as a typed server writes them: one text for each amount and family of suffixes.

Source: behaviour of apimachinery resource.Quantity (CanonicalizeBytes).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from podwire.model.quantity import parse_quantity

NOT_A_QUANTITY = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"  # as clients know it
)
_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def is_quantity(value: str | float) -> bool:
    try:
        parse_quantity(value)
    except ValueError:
        return False
    return True


def canonical_quantity(value: str | float) -> str:
    """`0.5` is 500m, `1024Mi` is 1Gi. Raises ValueError when the value is not a quantity."""
    return _canonical(str(value))


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    amount = parse_quantity(text)
    if amount == 0:
        return "0"
    if text.strip().endswith("i") and abs(amount) >= 1024:
        whole, step = ceil(amount), 0
        while whole % 1024 == 0 and step < len(_BINARY) - 1:
            whole, step = whole // 1024, step + 1
        return f"{whole}{_BINARY[step]}"
    whole, step = ceil(amount.scaleb(9)), 0  # nothing is finer than a billionth
    exponents = any(letter in text for letter in "eE") and not text.strip().endswith("E")
    while whole % 1000 == 0 and (exponents or step < len(_DECIMAL) - 1):
        whole, step = whole // 1000, step + 1
    if exponents:
        return f"{whole}e{step * 3 - 9}" if step != 3 else str(whole)
    return f"{whole}{_DECIMAL[step]}"
