"""Who this process is to the API."""

from __future__ import annotations

import asyncio

from podwire.agent.config import AgentConfig
from podwire.kube import incluster, kubeconfig
from podwire.kube.kubeconfig import Cluster


async def find(config: AgentConfig) -> Cluster:
    """Who we are to the API. Waits until something puts an identity in place. Raises KubeconfigError for one that
    cannot be used."""
    while not (config.kubeconfig.exists() or (config.service_account / "token").exists()):
        await asyncio.sleep(0.1)
    return read(config)


def read(config: AgentConfig) -> Cluster:
    """A kubeconfig, else the service account of our pod, as it is now. Raises KubeconfigError."""
    if config.kubeconfig.exists():
        return kubeconfig.load(config.kubeconfig)
    return incluster.cluster(config.api_server, config.service_account)
