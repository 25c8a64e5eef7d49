"""Resource quantities: `500m`, `1Gi`, `2e3`. Source: apimachinery resource.Quantity's grammar."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

_TEXT = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(m|n|u|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse_quantity(text: str | int | float) -> Decimal:
    """The amount in base units (cores, bytes). Raises ValueError when the text is not a quantity."""
    return _parse(str(text))


@lru_cache(maxsize=1024)
def _parse(text: str) -> Decimal:
    found = _TEXT.match(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a quantity: use a number with a suffix such as m, k, Ki, Mi or Gi")
    number, suffix = Decimal(found.group(1)), found.group(2)
    if not suffix:
        return number
    if suffix in _BINARY:
        return number * Decimal(1024 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:]))
