"""The Node's condition NetworkUnavailable: false once this node's agent can serve pods.

Cloud providers begin a node with it true, which keeps pods away (taint node.kubernetes.io/network-unavailable). It is
said once for each Node object, as other networks do: an agent that restarts must not drive pods away.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from podwire.agent.health import Health
from podwire.agent.loop import Loop
from podwire.model.api import Api, ApiError, Object
from podwire.model.gvr import NODES

log = logging.getLogger(__name__)

TYPE, REASON = "NetworkUnavailable", "PodwireIsUp"
LOOK_SECONDS = 0.2
RETRY_SECONDS = 5.0


def told(node: Object) -> bool:
    """The node already says that its network is there."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(one.get("type") == TYPE and one.get("status") == "False" for one in conditions)


def condition(now: str) -> Object:
    return {
        "type": TYPE,
        "status": "False",
        "reason": REASON,
        "message": "Podwire is running on this node",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


async def keep(api: Api, node: str, loop: Loop, health: Health) -> None:
    """Until cancelled: say it of every Node object that this node is given."""
    said = ""
    while True:
        version, record = loop.version, loop.nodes.get(node)
        if record is None or record.metadata.uid == said:
            await loop.newer(version, None)
            continue
        if not health.ready:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        try:
            if not told(await api.get(NODES, node)):
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                patch = {"status": {"conditions": [condition(now)]}}
                await api.patch(NODES, node, patch, kind="strategic", subresource="status")
            said = record.metadata.uid
        except ApiError as error:
            log.warning("node condition not written name=%s error=%s", node, error)
            await asyncio.sleep(RETRY_SECONDS)
