"""Errors of the rooms below as the command line shows them: one line, exit code 1 (2 for bad usage)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from podwire.lab.state import LabError
from podwire.lab.topology import PlanError


class BadInput(click.ClickException):
    """What the user wrote cannot be built."""

    exit_code = 2


@contextmanager
def reported() -> Iterator[None]:
    """Turn LabError and OSError into exit code 1 and PlanError (what the user wrote) into exit code 2."""
    try:
        yield
    except (LabError, OSError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error  # a timeout has no words
    except PlanError as error:
        raise BadInput(str(error)) from error
