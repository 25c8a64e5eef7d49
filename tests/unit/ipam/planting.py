"""Plant a mistake in a function, by its text."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def planted(owner: Any, name: str, right: str, wrong: str) -> Iterator[None]:
    """`owner` is the class or module that has the function. The text must be there: a mistake that can no longer be
    planted is no test of anything."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{name}: {right!r} is there {source.count(right)} times"
    module = sys.modules[function.__module__]
    scope: dict[str, Any] = {}
    code = compile("from __future__ import annotations\n" + source.replace(right, wrong), name, "exec")
    exec(code, module.__dict__, scope)
    setattr(owner, name, scope[name])
    try:
        yield
    finally:
        setattr(owner, name, function)
