"""Who this process is to the API."""

from __future__ import annotations

import asyncio

from podwire.agent.config import AgentConfig
from podwire.kube import incluster, kubeconfig
from podwire.kube.kubeconfig import Cluster


async def find(config: AgentConfig) -> Cluster:
    """Who we are to the API: a kubeconfig, else the service account of our pod. Waits until something else puts one in
    place. Raises KubeconfigError for one that cannot be used."""
    while True:
        if config.kubeconfig.exists():
            return kubeconfig.load(config.kubeconfig)
        if (config.service_account / "token").exists():
            return incluster.cluster(config.api_server, config.service_account)
        await asyncio.sleep(0.1)
