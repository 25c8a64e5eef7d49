"""The contract of `Api` on the fake, and on the lab's API server in process and over HTTP."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from podwire.kube.client import Api, Client
from podwire.kube.fake import FakeApi
from podwire.kube.kubeconfig import Cluster
from podwire.kube.watch import Pause
from podwire.model.gvr import NAMESPACES


def beside(name: str) -> ModuleType:
    """A plain module of this folder (tests are imported by path, not as a package)."""
    spec = importlib.util.spec_from_file_location(f"kube_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"kube_{name}"] = module
    spec.loader.exec_module(module)
    return module


contract, fakeserver = beside("contract"), beside("fakeserver")


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    for name in ("space", "kube-public"):
        await api.create(NAMESPACES, {"metadata": {"name": name}})
    yield api
    await api.close()


class TestFake(contract.ApiContract):
    @pytest.fixture
    def api(self, fake: FakeApi) -> Api:
        return fake


class TestClientOverHttp(contract.ApiContract):
    @pytest.fixture
    async def api(self, fake: FakeApi) -> AsyncIterator[Api]:
        server = fakeserver.FakeServer(fake)
        await server.start()
        client = Client(Cluster(f"http://127.0.0.1:{server.port}"), pause=Pause(0.01, 0.1))
        yield client
        await client.close()
        await fake.close()
        await server.stop()
