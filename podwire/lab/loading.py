"""Loaded images into labs of genuine Kubernetes that run: each node's containerd, and the lab's registry, get them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from podwire.genuine import components, registry
from podwire.kubelet import images, imagewriter
from podwire.lab.exec import enter
from podwire.lab.processes import node_pid
from podwire.lab.state import LabError, LabState, every_lab


def into_running(names: Sequence[str], cache: Path) -> Iterator[str]:
    """Import the cache's images of these names; yields the name of each lab that got them. Raises LabError."""
    labs = [state for state in every_lab() if _runs(state)]
    if not labs or not names:
        return
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        archive = Path(folder) / "images.tar"
        digests = imagewriter.write(archive, [imagewriter.copy(images.resolve(name, cache), [name]) for name in names])
        for state in labs:
            plan = state.read_plan()
            assert plan is not None
            registry.add(state.loaded, archive, digests)
            for node in plan.nodes:
                _import(state, node.name, archive)
            yield state.name


def _runs(state: LabState) -> bool:
    try:
        plan = state.read_plan()
        return plan is not None and plan.genuine and state.supervisor() is not None
    except LabError:
        return False  # another lab's trouble


def _import(state: LabState, node: str, archive: Path) -> None:
    """`ctr images import` in the node, which reads the archive from standard input. Raises LabError."""
    pid = node_pid(state, node)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            source = os.open(archive, os.O_RDONLY)
            os.close(reader)
            enter(pid)
            code = _run_inside(components.ctr("images", "import", "-"), source, writer)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        words = told.read().decode(errors="replace").strip()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise LabError(f"node {node} did not take the images: {words or 'it ended meanwhile'}")


def _run_inside(argv: tuple[str, ...], source: int, out: int) -> int:
    """A new pid namespace is for children: so it is a child that becomes the program."""
    inner = os.fork()
    if inner == 0:
        try:
            for fd, target in ((source, 0), (out, 1), (out, 2)):
                os.dup2(fd, target)
            os.execv(argv[0], argv)
        finally:
            os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
