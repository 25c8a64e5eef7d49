"""The contract of `Api`, and the recorded requests of the lab's API server, before the genuine one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from podwire.agent.pods import Known
from podwire.kube.client import Client, _HttpSource
from podwire.model.api import ApiError
from podwire.model.gvr import NAMESPACES, SERVICEACCOUNTS
from tests.kubernetes.plane import Plane, running

UNIT = Path(__file__).parents[1] / "unit"
_spec = importlib.util.spec_from_file_location("kube_contract", UNIT / "kube" / "contract.py")
assert _spec and _spec.loader
contract = importlib.util.module_from_spec(_spec)
sys.modules["kube_contract"] = contract
_spec.loader.exec_module(contract)


@pytest.fixture(scope="module")
def plane(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(built, tmp_path_factory.mktemp("plane")) as found:
        yield found


class TestGenuine(contract.ApiContract):
    @pytest.fixture
    async def api(self, plane: Plane) -> AsyncIterator[Client]:
        """In the namespace `space`, which no controller empties or ends: so we do."""
        client = plane.client()
        await client.create(NAMESPACES, {"metadata": {"name": "space"}})
        await client.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "space")
        yield client
        await _end(client, "space")
        await client.close()


async def test_a_watch_of_a_genuine_server(plane: Plane) -> None:
    """What there is comes as a stream with an end mark: the client need not list."""
    client = plane.client()
    source = _HttpSource(client, NAMESPACES, NAMESPACES.path(), {}, Known)
    seen: list[str] = []
    async with aclosing(source.stream()) as changes, asyncio.timeout(30):
        async for change in changes:
            seen.append(change.type)
            if change.type == "LEARNED":
                break
    assert seen.count("ADDED") >= 4 and seen[-1] == "LEARNED" and int(change.record.version) > 1
    await client.close()


async def _end(client: Client, name: str) -> None:
    for plural in ("configmaps", "pods", "serviceaccounts"):
        path = f"/api/v1/namespaces/{name}/{plural}"
        await client.raw("DELETE", f"{path}?gracePeriodSeconds=0")
        for item in (await client.raw("GET", path))["items"]:
            await client.raw("DELETE", f"{path}/{item['metadata']['name']}?gracePeriodSeconds=0")
    await client.delete(NAMESPACES, name)
    ending = await client.get(NAMESPACES, name)
    ending["spec"]["finalizers"] = []
    await client.update(NAMESPACES, ending, subresource="finalize")
    with pytest.raises(ApiError):
        await client.get(NAMESPACES, name)


def test_the_recorded_answers_are_still_given(plane: Plane) -> None:
    """The pages of requests by which the lab's server is held to the genuine one's answers: asked of that again."""
    environment = {
        **os.environ,
        "PODWIRE_CONTRACT_SERVER": plane.server,
        "PODWIRE_CONTRACT_CA": str(plane.folder / "ca.crt"),
        "PODWIRE_CONTRACT_CERT": str(plane.folder / "admin.crt"),
        "PODWIRE_CONTRACT_KEY": str(plane.folder / "admin.key"),
    }
    pages = str(UNIT / "apiserver" / "test_genuine.py")
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pages],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stdout[-20000:]
