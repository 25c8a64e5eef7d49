"""Keeps `inet podwire-tunnel` equal to the known nodes: changes are elements only.

The table is made before the tunnel, and outlives the agent: what it last knew stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from podwire.agent.elements import OwnedElements
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.tables import NftProgram
from podwire.render import nft_tunnel
from podwire.render.routing import Names


class TunnelSenders:
    """Not for use by two threads at once."""

    def __init__(self, program: NftProgram, sockets: Callable[[], ElementSocket], names: Names) -> None:
        body = partial(nft_tunnel.body, port=names.port, vni=names.vni)
        self._elements = OwnedElements(nft_tunnel.TABLE, nft_tunnel.SETS, body, program, sockets)
        self._nodes: frozenset[str] | None = None  # None: not yet, or in doubt

    def doubt(self) -> None:
        """Somebody else may have changed the table: the next `apply` looks."""
        self._nodes = None

    def apply(self, nodes: Iterable[str]) -> list[KernelError]:
        """These addresses, and no others, may send; what failed."""
        wanted = frozenset(nodes)
        try:
            if self._nodes is None:
                self._elements.restore({node: nft_tunnel.rows(node) for node in wanted})
            else:
                for node in wanted - self._nodes:
                    self._elements.put(node, nft_tunnel.rows(node))
                for node in self._nodes - wanted:
                    self._elements.drop(node)
        except KernelError as error:
            self._nodes = None
            return [error]
        self._nodes = wanted
        return []
