"""Secrets out of what leaves the agent: log lines and dumps."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(redacted)"

_WORDS = r"(?:token|password|passwd|secret|client[-_]?key(?:[-_]?data)?|private[-_]?key|authorization)"
_NAMED = re.compile(rf"\A[\w.-]*{_WORDS}\Z", re.IGNORECASE)
_TEXTS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token
    rf"|(?P<head>\b(?:bearer|basic) +|\b{_WORDS}[\"']?\s*[:=]\s*[\"']?)(?!\(redacted\))[^\s\"',;]+",
    re.IGNORECASE | re.DOTALL,
)


def text(words: str) -> str:
    """The same without private keys, web tokens, and what stands behind `Bearer`, `token=` and the like."""
    return _TEXTS.sub(lambda found: (found["head"] or "") + HIDDEN, words)


def tree(value: Any) -> Any:
    """Plain JSON values without secrets: what a key like `token` holds, and such texts anywhere."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if item and isinstance(item, str) and _NAMED.match(str(key)) else tree(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [tree(item) for item in value]
    return text(value) if isinstance(value, str) else value
