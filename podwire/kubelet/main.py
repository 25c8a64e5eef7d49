"""The kubelet process of one node: composition only."""

from __future__ import annotations

from podwire.kubelet.config import KubeletConfig

__all__ = ["KubeletConfig", "run"]


def run(config: KubeletConfig) -> None:
    """Run until SIGTERM."""
    import asyncio

    from podwire.kubelet.kubelet import serve

    asyncio.run(serve(config))
