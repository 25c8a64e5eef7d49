"""All control loops together, over one shared picture of the cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from podwire.controllers import loop
from podwire.controllers.accounts import Accounts
from podwire.controllers.cache import World
from podwire.controllers.cidrs import NodeCidrs
from podwire.controllers.daemonset import DaemonSets
from podwire.controllers.deployment import Deployments
from podwire.controllers.endpoints import Endpoints
from podwire.controllers.garbage import Garbage
from podwire.controllers.health import GRACE_SECONDS
from podwire.controllers.installation import Installations
from podwire.controllers.namespaces import Namespaces
from podwire.controllers.nodes import Evictions, NodeHealth
from podwire.controllers.objects import Object
from podwire.controllers.podgc import QUARANTINE_SECONDS, PodGarbage
from podwire.controllers.pool import DefaultPool, default_pool, default_pool6
from podwire.controllers.replicaset import ReplicaSets
from podwire.controllers.scheduler import Scheduler
from podwire.kube.client import Api


@dataclass(frozen=True)
class ControllersConfig:
    """`pod_subnet` is cut into node CIDRs of prefix length `node_mask`, `pod_subnet6` (if any) into such of 64;
    `ca_pem` is given to each namespace; `default_pool` makes the address pools, over an `overlay` of tunnels or not,
    and disabled where addresses come from elsewhere; or else `pools` are made. Times are in seconds."""

    pod_subnet: str = "10.244.0.0/16"
    node_mask: int = 24
    pod_subnet6: str = ""
    service_subnet: str = "10.96.0.0/12"
    ca_pem: str = ""
    default_pool: bool = True
    overlay: bool = True
    pool_disabled: bool = False
    pools: tuple[Object, ...] = ()
    node_grace: float = GRACE_SECONDS
    orphan_quarantine: float = QUARANTINE_SECONDS


def controllers(world: World, config: ControllersConfig) -> list[loop.Controller]:
    """Every loop but the garbage collector, which has to be told of stores as they come."""
    found = [
        Scheduler(world).controller(),
        ReplicaSets(world).controller(),
        Deployments(world).controller(),
        DaemonSets(world).controller(),
        Endpoints(world).controller(),
        Accounts(world, config.ca_pem).controller(),
        Namespaces(world).controller(),
        NodeCidrs(world, config.pod_subnet, config.node_mask, config.pod_subnet6).controller(),
        NodeHealth(world, config.node_grace).controller(),
        Evictions(world).controller(),
        PodGarbage(world, config.orphan_quarantine).controller(),
        Installations(world).controller(),
    ]
    if config.default_pool:
        pool = default_pool(config.pod_subnet, config.node_mask, overlay=config.overlay, disabled=config.pool_disabled)
        # the second family first: no pod starts without IPv4, so none starts with IPv4 alone
        pools = [*([default_pool6(config.pod_subnet6)] if config.pod_subnet6 else []), pool]
        found.append(DefaultPool(world, *(config.pools or pools)).controller())
    return found


async def run(client: Api, config: ControllersConfig) -> None:
    """Run all loops until cancelled. No refusal of the API ends them. Raises ValueError on a config that makes no
    sense (see NodeCidrs)."""
    world = World(client)
    garbage = Garbage(world)
    loops = [(one, loop.attach(world, one)) for one in controllers(world, config)]
    collector = garbage.controller()
    collecting = loop.attach(world, collector)
    garbage.listen(collecting)
    try:
        async with asyncio.TaskGroup() as group:
            for one, queue in [*loops, (collector, collecting)]:
                group.create_task(loop.operate(world, one, queue), name=one.name)
            for store in world.stores:
                group.create_task(world.follow(store.gvr), name=f"watch {store.gvr.plural}")
            group.create_task(garbage.follow_optional(), name="optional kinds")
    finally:
        garbage.close()
        await world.close()
