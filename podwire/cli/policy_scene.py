"""Where the policy verbs take their objects from: `-f FILE…`, or the cluster of the kubeconfig."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from podwire.cli.connect import Target, ask, cluster_options, target
from podwire.cli.errors import BadInput
from podwire.observe.manifests import Manifest, ManifestError, read
from podwire.observe.policyread import read as read_cluster
from podwire.observe.policyscene import Scene, over

F = TypeVar("F", bound=Callable[..., Any])

_ENDINGS = (".yaml", ".yml", ".json")


def scene_options(command: F) -> F:
    """`-f FILE… -R`, and which cluster otherwise."""
    command = cluster_options(command)
    command = click.option("-R", "--recursive", is_flag=True, help="Folders with all below them.")(command)
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        metavar="FILE",
        help="Manifests: a file, a folder, or - for standard input. Without it: the cluster.",
    )(command)


@contextmanager
def explained() -> Iterator[None]:
    """What the user wrote and cannot be read is exit code 2."""
    try:
        yield
    except ManifestError as error:
        raise BadInput(str(error)) from None


def manifests(files: Sequence[str], *, recursive: bool, beside: str = "") -> list[Manifest]:
    """The objects of these files, in order, and documents that have the key `beside`. Raises BadInput."""
    found = []
    with explained():
        for name in files:
            for path in _expanded(name, recursive=recursive):
                found += read(_text(path), path, beside=beside)
    return found


def _expanded(name: str, *, recursive: bool) -> list[str]:
    if name.startswith(("http://", "https://")):
        raise BadInput(f"{name}: only files are read; fetch it first (curl -o FILE URL) and look at what it holds")
    path = Path(name)
    if name == "-" or not path.is_dir():
        return [name]
    inside = sorted(path.rglob("*") if recursive else path.iterdir())
    found = [str(one) for one in inside if one.suffix in _ENDINGS and one.is_file()]
    if not found:
        below = "" if recursive else " (-R looks into its folders as well)"
        raise BadInput(f"{name}: no file there ends in {', '.join(_ENDINGS)}{below}")
    return found


def _text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def scene_of(files: Sequence[str], recursive: bool, kubeconfig: str, context: str) -> tuple[Scene, Target | None]:
    """The scene of the files, or of the cluster when none is named; then also which cluster that is."""
    if files:
        if kubeconfig or context:
            raise click.UsageError("-f and --kubeconfig or --context: choose files, or a cluster")
        return Scene(over((), manifests(files, recursive=recursive))), None
    where = target(kubeconfig, context)
    return Scene(ask(where, read_cluster)), where
