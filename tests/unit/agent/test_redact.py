"""Secrets do not leave the agent, neither by name nor by shape; everything else does."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.agent import redact
from podwire.agent.redact import HIDDEN

WEB_TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"header Authorization: Bearer {WEB_TOKEN} refused", WEB_TOKEN),
        (f"401 for {WEB_TOKEN}", WEB_TOKEN),
        ("GET /x?token=abc123&y=1", "abc123"),
        ('{"password": "hunter2"}', "hunter2"),
        ("client-key-data: TUlJRW93", "TUlJRW93"),
        (f"cannot load {KEY}", "MIIEow"),
        (KEY[:40], "MIIEow"),
        ("proxy said Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ],
)
def test_a_secret_is_left_out(words: str, left: str) -> None:
    assert left not in redact.text(words)
    assert HIDDEN in redact.text(words)
    assert redact.text(redact.text(words)).count(HIDDEN) >= 1


@pytest.mark.parametrize(
    "words",
    [
        "attached pod=default/token-service addresses=10.244.0.5",
        "Unauthorized: the token has expired",
        "address lost: its block is gone",
        "secrets 'default/x' is forbidden",
        "mac 66:00:00:00:00:01 host veth cali0123456789a",
    ],
)
def test_other_words_stay(words: str) -> None:
    assert redact.text(words) == words


def test_what_a_key_names_is_left_out_of_trees() -> None:
    tree: dict[str, Any] = {
        "kubeconfig": "/etc/podwire/kubeconfig",
        "token": "abc",
        "api_token": "abc",
        "token_file": "/var/run/token",
        "nested": [{"clientKey": "x", "password": ""}, f"Bearer {WEB_TOKEN}", 7, None],
    }
    assert redact.tree(tree) == {
        "kubeconfig": "/etc/podwire/kubeconfig",
        "token": HIDDEN,
        "api_token": HIDDEN,
        "token_file": "/var/run/token",
        "nested": [{"clientKey": HIDDEN, "password": ""}, f"Bearer {HIDDEN}", 7, None],
    }
