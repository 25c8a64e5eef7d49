"""The contract of `Api` on the lab's API server, in process and over HTTPS."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from podwire.kube.client import Client
from podwire.kube.kubeconfig import load
from podwire.model.gvr import NAMESPACES, SERVICEACCOUNTS

_path = Path(__file__).parents[1] / "kube" / "contract.py"
_spec = importlib.util.spec_from_file_location("kube_contract", _path)
assert _spec and _spec.loader
contract = importlib.util.module_from_spec(_spec)
sys.modules["kube_contract"] = contract
_spec.loader.exec_module(contract)


async def prepare(api) -> None:
    """The namespaces of the suite, with the service account that a controller would make."""
    await api.create(NAMESPACES, {"metadata": {"name": "space"}})
    await api.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "space")


class TestLocal(contract.ApiContract):
    @pytest.fixture
    async def api(self, running):
        await prepare(running.server.client)
        return running.server.client


class TestHttp(contract.ApiContract):
    @pytest.fixture
    async def api(self, running, tmp_path: Path):
        pki = running.pki
        (tmp_path / "kubeconfig").write_text(
            f"""
clusters: [{{name: t, cluster: {{server: '{running.url}', certificate-authority: {pki.ca}}}}}]
users: [{{name: t, user: {{client-certificate: {pki.client_cert}, client-key: {pki.client_key}}}}}]
contexts: [{{name: t, context: {{cluster: t, user: t}}}}]
current-context: t
"""
        )
        client = Client(load(tmp_path / "kubeconfig"))
        await prepare(client)
        yield client
        await client.close()
