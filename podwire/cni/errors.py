"""The numbers of the CNI contract: versions spoken, error codes, and the refusal that carries one to the runtime.

Source: containernetworking/cni SPEC.md 1.1.0, "Error" and "Version considerations"; 8 and 999 are the reference
library's own.
"""

from __future__ import annotations

from typing import Any

import msgspec

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
UNSTATED_VERSION = "0.1.0"
"""What a configuration without cniVersion is written in, as the reference library takes it."""

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
BAD_CONFIG = 7
BAD_NETNS = 8
TRY_AGAIN = 11
UNAVAILABLE = 50
LIMITED = 51
"""Unavailable, and pods that exist already may have limited connectivity."""
INTERNAL = 999
DRIFT = 100
"""CHECK found something else in the kernel than the attachment says."""

_MAX_WORDS = 8192


class CniError(Exception):
    """A refusal that the runtime shows: code (the spec's below 100), msg, details."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def encode(self, version: str) -> bytes:
        """The error object, one line. Whatever the words quote, it is JSON of reasonable length."""
        answer: dict[str, Any] = {"cniVersion": version or "1.0.0", "code": self.code, "msg": _speakable(self.msg)}
        if self.details:
            answer["details"] = _speakable(self.details)
        return msgspec.json.encode(answer) + b"\n"


def _speakable(words: str) -> str:
    """Quoted input can hold lone surrogates (from undecodable bytes), which JSON cannot."""
    return words[:_MAX_WORDS].encode(errors="backslashreplace").decode()


def older(version: str, than: str) -> bool:
    """Both are of VERSIONS."""
    return VERSIONS.index(version) < VERSIONS.index(than)
