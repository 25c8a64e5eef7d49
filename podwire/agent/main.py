"""The node daemon, put together: kernel restored, CNI socket served, API followed, CNI files installed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from podwire.agent import (
    bridgerepair,
    condition,
    dump,
    duties,
    identity,
    kubenet,
    mtu,
    podevents,
    points,
    policyengine,
    priority,
    process,
    recovery,
    roletable,
    scrape,
)
from podwire.agent import health as health_page
from podwire.agent.admission import Admission
from podwire.agent.attach import Attacher, is_brief
from podwire.agent.attachments import BRIDGE, CLAIMING, READY, Attachment, Attachments
from podwire.agent.between import Between
from podwire.agent.calls import Calls
from podwire.agent.claimer import Claimer
from podwire.agent.cnisocket import CniSocket
from podwire.agent.collector import Collector
from podwire.agent.config import ON, STRICT, AgentConfig
from podwire.agent.countedapi import CountedApi
from podwire.agent.datapath import NodeDatapath
from podwire.agent.enrol import Enrolment, uplink
from podwire.agent.extras import Extras
from podwire.agent.figures import Source
from podwire.agent.files import Files, from_files
from podwire.agent.floating import FloatingAddresses
from podwire.agent.guard import Guard
from podwire.agent.health import Health
from podwire.agent.hostports import HostPorts
from podwire.agent.ipamwatch import IpamSettings
from podwire.agent.logs import Recent
from podwire.agent.loop import Loop
from podwire.agent.othernetworks import OtherNetworks
from podwire.agent.podmarks import PodMarks
from podwire.agent.pods import PodApi, Pods
from podwire.agent.policyengine import PolicyEngine
from podwire.agent.policyevents import PolicyEvents
from podwire.agent.policygate import PolicyGate
from podwire.agent.policylogs import PolicyLogs
from podwire.agent.policyloop import PolicyLoop
from podwire.agent.readiness import Readiness
from podwire.agent.reaper import Reaper
from podwire.agent.repair import Repair
from podwire.agent.spool import Spool
from podwire.agent.tunnel import TunnelSenders
from podwire.agent.turns import Turns
from podwire.agent.wiring import Sockets
from podwire.calc.policy import PolicyCalc
from podwire.calc.routes import RouteCalc
from podwire.cni import build, install
from podwire.cni.install import Places
from podwire.cni.listing import Entry
from podwire.cni.plan import PREFIX
from podwire.ipam.claims import Allocator
from podwire.ipam.layout import FoundApi
from podwire.kernel import netlink, netns, reconcile
from podwire.kernel.links import RouteSocket
from podwire.kernel.tables import Nft
from podwire.kube import tallies
from podwire.kube.client import Client
from podwire.kube.events import record as record_event
from podwire.model.address import Cidr
from podwire.model.api import Api
from podwire.model.ippool import IPPool
from podwire.model.node import Node
from podwire.render import nft_admission, nft_bridge, nft_floating, nft_hostports
from podwire.render.routing import Names

log = logging.getLogger(__name__)

_COLLECT_AFTER = 20_000
"""Objects made before Python looks for rings among them: a call makes some thousand, and hardly a ring."""


class AgentApi(PodApi, Api, Protocol):
    """The API with watches that decode: the HTTP client and the fake both are it."""


class Agent:
    """One node's agent. `serve` runs until cancelled; the API client is the caller's."""

    def __init__(self, config: AgentConfig, api: AgentApi) -> None:
        self._config = config
        self.health = Health()
        self._api = api = FoundApi(CountedApi(api, self.health.figures))
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._between: Between | None = None
        self._complete = False
        self._installed = asyncio.Event()
        self._collection: asyncio.Task[None] | None = None
        self._boot = ""
        self._uplink_mtu = mtu.DEFAULT
        self._loop: Loop | None = None
        self._allocator: Allocator | None = None
        turns = Turns()
        self._claimer = Claimer(turns)
        self._pods = Pods(api, config.node_name, turns)
        self._sockets = Sockets()
        self._elector = duties.elector(api, config, config.node_name) if config.cluster_duties else None
        self._records = Attachments(config.attachments)
        strict = config.policy_established == STRICT
        enforced = config.policy_enforce == ON
        self._policy_loop: PolicyLoop | None = None
        self._policy = PolicyEngine(Nft(), self._sockets.elements, PREFIX, strict=strict) if enforced else None
        self._gate = PolicyGate(self._policy, self._pods.exists, self._sockets.route, turns)
        self._admission = Admission(Nft(), self._sockets.elements, self._gate)
        self._guard = Guard(Nft(), self._sockets.elements)
        self._files = Files()
        self._pod_cidr = kubenet.PodCidr(config.state_dir / "podcidr.json")
        self._reaper = Reaper(self._records, self._sockets, self._release, turns)
        floating, ports = FloatingAddresses(Nft(), self._sockets), HostPorts(Nft(), self._sockets)
        self._extras = Extras(ports, floating, self._sockets, self._reaper.wake)
        self._elements = {
            nft_admission.TABLE: self._admission.held,
            nft_bridge.BRIDGE: self._guard.held,
            nft_hostports.TABLE: ports.held,
            nft_floating.TABLE: floating.held,
        }
        parts = roletable.Parts(
            config,
            self._records,
            self._sockets,
            self._admission,
            self._reaper,
            self._claimer,
            Readiness(self.health, self._claimer, self._known_pools, blocks=config.ipam != kubenet.HOST_LOCAL),
            boot=lambda: self._boot,
            mtu=self._pod_mtu,
            pods=self._pods,
            extras=self._extras,
            pools=self._known_pools,
            pod_cidrs=self._pod_cidrs,
            guard=self._guard,
            files=self._files,
            gate=self._gate,
        )
        self._attacher = Attacher(self._records, roletable.build(parts), self._claimer, self._sockets)
        self._spool = Spool(config.spool, self._attacher.serve)
        self._calls = Calls(self._spool.serve, self.health.figures)
        self._socket = CniSocket(config.socket, self._calls.serve, self._attacher.arrive, is_brief)
        turns.aside = self._socket.step_aside
        self._recent = Recent()
        self._others = OtherNetworks(api, config.node_name, self._places(), self.health)
        self.health.figures.sources.extend(self._figures())

    async def serve(self) -> None:
        """Raises KernelError or OSError when the node cannot be taken over; otherwise runs until cancelled."""
        self._event_loop = asyncio.get_running_loop()
        self._between = Between(self._event_loop)
        _be_brisk()
        logging.getLogger().addHandler(self._recent)
        await asyncio.to_thread(self._take_over)
        server = await health_page.listen(self.health, self._config.health_port)
        names = await asyncio.to_thread(self._names)
        senders = TunnelSenders(Nft(), self._sockets.elements, names)
        datapath = NodeDatapath(RouteSocket(), Nft(), names, bridged=self._records.bridged, senders=senders)
        by_node = self._config.ipam == kubenet.HOST_LOCAL and self._config.network != kubenet.KUBENET
        calc = (kubenet.PodCidrRoutes if by_node else RouteCalc)(self._config.node_name)
        loop = Loop(self._api, calc, datapath, names, self.health)
        self._loop = loop
        settings = IpamSettings(self._api)
        enrolment = Enrolment(
            self._api, self._config.node_name, self._config.node_ip, loop, self.health, settings, self._open_attacher
        )
        debug = await dump.listen(self._looked_at(loop, calc, names, datapath))
        events = PolicyEvents(self._api, self._config.node_name, lambda: self._elector is None or self._leads())
        policy = self._policy_loop = self._follow_policy(events)
        logs = PolicyLogs(policy.engine.logged, self.health.figures) if policy is not None else None
        self._gate.knowledge = policy
        self._gate.told(self._records.all())
        self.health.good("start")  # by now the others have said what they wait for
        running = asyncio.get_running_loop()

        def doubt() -> None:
            running.call_soon_threadsafe(loop.doubt)
            if policy is not None:
                running.call_soon_threadsafe(policy.doubt)

        repair = Repair(
            self._records,
            self._sockets,
            self._admission,
            self._guard,
            self._extras,
            doubt,
            names.tunnel,
            lambda: self._pod_cidr.former,
            lambda: self._others.yields,
        )
        repair.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(loop.run(), name="loop")
                tasks.create_task(self._pods.run(), name="pods")
                if policy is not None and logs is not None:
                    tasks.create_task(policy.run(), name="policy")
                    tasks.create_task(events.run(), name="policy-events")
                    logs.start()
                tasks.create_task(settings.run(), name="ipam-settings")
                tasks.create_task(enrolment.run(), name="enrolment")
                tasks.create_task(self._install(loop), name="install")
                tasks.create_task(PodMarks(self._api, self._pods, self._records.all).run(), name="pod-marks")
                unread = podevents.UnreadAnnotations(self._api, self._config.node_name, self._pods, self._records.all)
                tasks.create_task(unread.run(), name="unread-annotations")
                tasks.create_task(
                    condition.keep(self._api, self._config.node_name, loop, self.health), name="condition"
                )
                if self._config.set_aside:
                    tasks.create_task(self._make_way(), name="other-networks")
                if self._elector is not None:
                    tasks.create_task(self._elector.run(), name="elector")
        finally:
            if self._collection is not None:
                self._collection.cancel()
            await server.close()
            if debug is not None:
                await debug.close()
            self._between.close()
            await asyncio.to_thread(repair.stop)
            if logs is not None:
                await asyncio.to_thread(logs.stop)
            await asyncio.to_thread(self._stop)
            logging.getLogger().removeHandler(self._recent)

    def _follow_policy(self, events: PolicyEvents) -> PolicyLoop | None:
        if self._policy is None:
            return None
        return PolicyLoop(self._api, PolicyCalc(), self._policy, self._config.node_name, self.health, events.tell)

    def _looked_at(self, loop: Loop, calc: RouteCalc, names: Names, datapath: NodeDatapath) -> dump.Parts:
        return dump.Parts(
            self._config,
            self.health,
            self._records,
            loop,
            calc,
            names,
            datapath,
            self._recent,
            lambda: self._allocator,
            self._elements,
        )

    def _figures(self) -> list[Source]:
        """What is counted when somebody scrapes."""
        return [
            process.build,
            process.samples,
            lambda: scrape.readiness(self.health, leads=self._leads()),
            lambda: scrape.calls(self._calls),
            self._recent.samples,
            self._others.figures,
            scrape.kernel,
            lambda: scrape.watches(time.monotonic()),
            lambda: scrape.policy(self._policy_loop),
            lambda: scrape.endpoints(self._records.all(), self._config.spool),
            lambda: scrape.pools(self._known_pools(), self._loop.fill) if self._loop is not None else (),
            lambda: scrape.blocks(self._known_pools(), self._allocator) if self._allocator is not None else (),
        ]

    def _names(self) -> Names:
        config = self._config
        name = uplink(config.node_ip)
        link = self._sockets.route().link(name)
        self._uplink_mtu = link.mtu if link is not None else mtu.DEFAULT
        size = config.mtu or mtu.tunnel(self._uplink_mtu, config.node_ip)
        return Names(uplink=name, vni=config.vxlan_vni, port=config.vxlan_port, mtu=size)

    def _leads(self) -> bool:
        return self._elector is not None and self._elector.leads()

    def _pod_mtu(self) -> int:
        return self._config.mtu or mtu.pods(self._uplink_mtu, self._known_pools(), self._config.node_ip)

    def _known_pools(self) -> list[IPPool]:
        return list(self._loop.pools.values()) if self._loop is not None else []

    def _pod_cidrs(self) -> tuple[str, ...]:
        node = self._loop.nodes.get(self._config.node_name) if self._loop is not None else None
        return tuple(node.pod_cidrs) if node is not None else ()

    def _take_over(self) -> None:
        points.arm(os.environ.get("PODWIRE_FAULT", ""))
        self._boot = recovery.identity()
        self._records.load()
        self._complete = recovery.restore(
            self._records, self._sockets, self._admission, self._reaper, self._extras, self._boot
        )
        self._gate.restore(self._records.all())
        if self._policy is None:
            policyengine.remove(Nft())
        self._guard.restore(self._records.all(), {link.name for link in self._sockets.route().links()})
        bridgerepair.clear(self._sockets.route(), self._records.all())
        self._reaper.start()
        self._spool.start()
        self._socket.start()

    def _release(self, handles: Sequence[str]) -> list[Exception | None]:
        """Addresses go back to where they came from: files, or blocks on the API. Of each handle what went wrong.
        Raises TimeoutError, CniError."""
        outcomes: dict[str, Exception | None] = {}
        blocks: list[str] = []
        for handle in handles:
            try:
                outcomes[handle] = None
                if not self._files.release(handle):
                    blocks.append(handle)
            except Exception as error:  # noqa: BLE001 - it is one of several; the reaper tries it again
                outcomes[handle] = error
        if blocks:
            outcomes.update(zip(blocks, self._claimer.release(blocks), strict=True))
        return [outcomes[handle] for handle in handles]

    def _stop(self) -> None:
        self._attacher.end()
        self._socket.close()
        self._spool.stop()
        self._reaper.stop()

    async def _open_attacher(self, allocator: Allocator) -> None:
        assert self._event_loop is not None
        self._allocator = allocator
        first = not self._claimer.ready
        if first:
            ready = [
                record
                for record in self._records.all(READY)
                if record.role in CLAIMING and self._from_blocks(record.handle)
            ]
            refused = await allocator.adopt(
                {record.handle: record.addresses for record in ready},
                {record.handle: {"namespace": record.namespace, "pod": record.pod} for record in ready if record.pod},
            )
            elsewhere = self._from_elsewhere(ready)
            for address, owner in ((a, o) for a, o in refused.items() if a not in elsewhere):
                log.error("address of a pod is not its own address=%s owner=%s", address, owner)
                record = next(one for one in ready if address in one.addresses)
                await podevents.tell_conflict(self._api, self._config.node_name, record, address, owner)
        if first and self._complete:
            # no pod lives here but those on record: what else IPAM holds for this node was left by a former life
            freed = await allocator.release_all_but({record.handle for record in self._records.all()})
            log.info("left-over addresses released count=%d", len(freed))
        if self._config.ipam == kubenet.HOST_LOCAL:
            self._claimer.open(kubenet.HostLocalClaims(self._files, self._pod_cidr), self._event_loop)
        else:
            self._claimer.open(allocator, self._event_loop, self._between)
        collector = Collector(
            self._api,
            self._config.node_name,
            allocator,
            lambda: {record.handle for record in self._records.all()},
            grace=self._config.leak_grace,
            leads=self._leads,
        )
        self._collection = asyncio.create_task(collector.run(), name="collector")

    async def _install(self, loop: Loop) -> None:
        """The CNI configuration appears when pods can be served, and not before: the runtime takes it for readiness."""
        await loop.applied.wait()
        while not self.health.ready:
            await loop.newer(loop.version, 0.05)
        written: Entry | None = None
        while self._config.install_cni:
            version = loop.version
            await self._see_pod_cidr(loop.nodes.get(self._config.node_name))
            both = kubenet.dual(self._pod_cidrs(), self._known_pools())
            wanted = kubenet.entry(self._config, self._pod_mtu(), self._pod_cidr.cidrs, both=both)
            if wanted is not None and written != wanted:
                changed = await asyncio.to_thread(self._write_cni, wanted)
                log.info("cni installed mtu=%d changed=%s", wanted.mtu, ",".join(map(str, changed)) or "nothing")
                if written is None:
                    gc.collect()
                    gc.freeze()
                    self._installed.set()
                written = wanted
            await loop.newer(version, None)

    async def _make_way(self) -> None:
        """Other networks' configurations, once ours is there."""
        since = install.listed_at(self._places())
        await self._installed.wait()
        await self._others.make_way(since)
        await self._others.run()

    async def _see_pod_cidr(self, node: Node | None) -> None:
        """Where addresses come from the podCIDR it must not change."""
        config = self._config
        if node is None or (config.network != kubenet.KUBENET and config.ipam != kubenet.HOST_LOCAL):
            return
        news = self._pod_cidr.see(node)
        if not self._pod_cidr.refused:
            self.health.good("podCIDR")
            return
        self.health.not_ready("podCIDR", self._pod_cidr.refused)
        if news:
            log.error("podCIDR change refused error=%s", news)
            about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "uid": node.metadata.uid}}
            await record_event(
                self._api, about, "Warning", "PodCIDRChangeRefused", news, "podwire-agent", host=node.name
            )

    def _from_blocks(self, handle: str) -> bool:
        """Whether a record's addresses are from blocks."""
        return self._config.ipam != kubenet.HOST_LOCAL and not from_files(handle)

    def _from_elsewhere(self, records: list[Attachment]) -> set[str]:
        """Addresses on bridges that are of no pool: another IPAM plugin gave them."""
        spaces = [pool.cidr for pool in self._known_pools() if pool.sound]
        found = {address for record in records if record.role == BRIDGE for address in record.addresses}
        return {a for a in found if not any(space.covers(Cidr.parse(a)) for space in spaces)}

    def _write_cni(self, entry: Entry) -> list[Path]:
        return install.install(self._shim(), entry.mtu, self._places(), entry=entry)

    def _places(self) -> Places:
        config = self._config
        return Places(config.conf_dir, config.bin_dir, config.socket, config.spool)

    def _shim(self) -> Path:
        """The shim that was built beforehand, else one made here. Raises ShimError."""
        return self._config.shim if self._config.shim.exists() else build.build(self._config.state_dir)


def run(config: AgentConfig) -> None:
    """The daemon: blocks until SIGTERM or SIGINT. Raises what makes the start impossible."""
    netlink.writes.clear()  # a forked process counts its own writes, not its parent's
    reconcile.counts.clear()
    tallies.tallies.clear()
    priority.prefer()
    asyncio.run(_run(config))


def _be_brisk() -> None:
    """Spare what no log line of ours shows (thread, process, place in the source), and most searches for garbage."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


async def _run(config: AgentConfig) -> None:
    netns.place_sysctls(config.proc_sys)
    cluster = await identity.find(config)
    client = Client(cluster, user_agent="podwire-agent", again=partial(identity.read, config))
    task = asyncio.ensure_future(Agent(config, client).serve())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("agent stopped")
    finally:
        await client.close()
