"""The routed wiring: ADD, DEL, CHECK, GC of a veth pair whose host end is routed to (`cni.plan` says what it is).

ADD: the record is written first, then addresses are claimed through the API while the veth pair is made; the reply
goes out when the pod is addressed, routed and admitted. Whatever fails is undone. DEL answers when the pod is out of
use and that is on record; links and addresses are given back by the reaper. The same call may come again at any time.
"""

from __future__ import annotations

import concurrent.futures
import errno
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from podwire.agent import files, onrecord
from podwire.agent import wiring as wire
from podwire.agent.admission import Admission, speaker_of
from podwire.agent.attachments import DELETED, READY, ROUTED, Attachment, Attachments
from podwire.agent.claimer import CLAIM_SECONDS, Claimer, Pending
from podwire.agent.extras import Extras
from podwire.agent.files import Files
from podwire.agent.kubenet import HOST_LOCAL
from podwire.agent.pods import Pods
from podwire.agent.points import reached
from podwire.agent.policygate import PolicyGate
from podwire.agent.readiness import Readiness
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import Sockets
from podwire.cni import asked, capabilities, plan, spec
from podwire.cni.asked import Asked, Features
from podwire.cni.plan import Wiring
from podwire.cni.spec import CniError, Request, Result
from podwire.ipam.hostranges import Plan, parse_address
from podwire.kernel import netns
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)

_TRIES = 3


class Routed:
    """`boot` gives the identity of this boot and namespace, for the record; `mtu` what pods get now if not told.
    `files` serve the calls whose configuration says host-local; without them the claimer serves all."""

    def __init__(
        self,
        node: str,
        mtu: Callable[[], int],
        pods: Pods,
        records: Attachments,
        sockets: Sockets,
        admission: Admission,
        reaper: Reaper,
        claimer: Claimer,
        readiness: Readiness,
        boot: Callable[[], str],
        extras: Extras,
        gate: PolicyGate,
        features: Features,
        files: Files | None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._node = node
        self._mtu = mtu
        self._pods = pods
        self._records = records
        self._sockets = sockets
        self._admission = admission
        self._reaper = reaper
        self._claimer = claimer
        self._readiness = readiness
        self._boot = boot
        self._extras = extras
        self._gate = gate
        self._features = features
        self._files = files
        self._entropy = entropy
        self._indexes = wire.Indexes()

    # -- ADD ------------------------------------------------------------------------------------------------------

    def add(self, request: Request, inner: int) -> Result:
        key = (request.container_id, request.interface, "")
        known = self._records.get(key)
        if known is not None and known.state == READY:
            if not self._faults(known, inner):
                return self._result(request, _wiring(known))
            raise CniError(spec.INTERNAL, "attachment exists but is damaged", "DEL it first")
        if known is not None:
            self._reaper.finish(key)
        wanted = asked.asked(request, self._pods.facts(request), self._features)
        planned = plan.routed(request, wanted.mtu or self._mtu(), wanted.mac or plan.mac_from(self._entropy(6)))
        self._evict(planned.host_name, wanted)
        record = self._begin(request, planned, wanted)
        pending = self._claim(request, wanted)
        try:
            index = self._create(planned, inner)
            reached("created")
            complete = replace(planned, addresses=pending.addresses())
            reached("claimed")
            wire.address_pod(complete, inner, self._sockets.home(), index, wanted.sysctls)
            reached("pod")
            wire.address_host(self._sockets.route(), complete, index)
            reached("host")
            done = msgspec.structs.replace(record, addresses=complete.addresses, state=READY)
            self._extras.attach(done)
            reached("extras")
            if record.sources:
                self._open_sources(record)
            self._gate.expect(done)
            self._admission.admit(speaker_of(done))
            reached("admitted")
            wire.await_carrier(self._sockets.route(), complete.host_name)
            self._records.put(done)
            reached("ready")
        except BaseException:
            self._undo(record, pending)
            raise
        log.info("attached pod=%s/%s addresses=%s", request.namespace, request.pod, ",".join(complete.addresses))
        return self._result(request, complete)

    def _open_sources(self, record: Attachment) -> None:
        """The pod may use its prefixes. The kernel's own check of sources has no loose form for interfaces without an
        address, and what it says of all of them cannot be taken back for one. Raises CniError 7."""
        if any(plan.family(prefix) == 4 for prefix in record.sources):
            if netns.read_sysctl("net/ipv4/conf/all/rp_filter") != "0":
                text = "the node has net.ipv4.conf.all.rp_filter on: set it to 0"
                raise CniError(spec.BAD_CONFIG, f"annotation {asked.SOURCES} cannot be kept", text)
            netns.write_sysctl(f"net/ipv4/conf/{record.host_name}/rp_filter", "0")

    def _plan(self, request: Request) -> Plan | None:
        """That of host-local, where the configuration chooses it. Raises CniError 7."""
        ipam = request.config.get("ipam")
        chosen = isinstance(ipam, Mapping) and ipam.get("type") == HOST_LOCAL
        return files.load(request) if chosen and self._files is not None else None

    def _handle(self, request: Request) -> str:
        found = self._plan(request)
        return plan.handle(request) if found is None else files.handle(request, found)

    def _claim(self, request: Request, wanted: Asked) -> Pending:
        """A failure shows when the addresses are asked for."""
        found = self._plan(request)
        if found is None or self._files is None:
            return self._claimer.claim(asked.wish(request, self._node, wanted))
        future: concurrent.futures.Future[tuple[str, ...]] = concurrent.futures.Future()
        exact = found.wanted or tuple(address for text in wanted.exact if (address := parse_address(text)))
        try:
            given = self._files.assign(request, replace(found, wanted=exact))
            future.set_result(tuple(one.cidr.partition("/")[0] for one in given))
        except (CniError, OSError) as error:
            future.set_exception(error)
        return Pending(future, self._claimer.turns)

    def _result(self, request: Request, wiring: Wiring) -> Result:
        return plan.result(wiring, request.netns, capabilities.dns(request))

    def _begin(self, request: Request, planned: Wiring, wanted: Asked) -> Attachment:
        record = Attachment(
            container_id=request.container_id,
            interface=request.interface,
            network=request.network,
            netns=request.netns,
            host_name=planned.host_name,
            pod_mac=planned.pod_mac,
            mtu=planned.mtu,
            handle=self._handle(request),
            namespace=request.namespace,
            pod=request.pod,
            uid=request.uid,
            boot=self._boot(),
            ports=capabilities.port_mappings(request),
            limits=capabilities.bandwidth(request),
            floating=wanted.floating,
            sources=wanted.sources,
        )
        if self._plan(request) is None:
            self._claimer.require()
        self._records.put(record)
        reached("recorded")
        return record

    def _evict(self, name: str, wanted: Asked) -> None:
        """A retry of the same pod by another sandbox: the former one loses the name, and its addresses with its DEL;
        at once where the new one wants the very same."""
        owner = self._records.owner(name)
        if owner is None:
            return  # a left-over without a record is found when its name is wanted
        log.warning("host interface taken over name=%s from=%s", name, owner.container_id)
        self._admission.expel(name)
        self._extras.detach(owner)
        self._records.put(msgspec.structs.replace(owner, state=DELETED))
        self._reaper.add(owner.key)
        if wire.doom_host(self._sockets.route(), name, owner.addresses):
            self._reaper.wake()
        if not set(wanted.exact).isdisjoint(owner.addresses):
            self._reaper.finish(owner.key)

    def _create(self, planned: Wiring, inner: int) -> int:
        """The pair's index. Names or the number may be taken, by a left-over or by somebody else."""
        socket = self._sockets.route()
        index = self._indexes.take(socket)
        for _ in range(_TRIES):
            try:
                wire.create(socket, planned, inner, index)
                return index
            except KernelError as error:
                if error.errno != errno.EEXIST:
                    raise
            if wire.doom_host(socket, planned.host_name, ()):
                self._reaper.wake()
            index = self._indexes.take(socket, anew=True)
        raise CniError(spec.INTERNAL, f"interface {planned.pod_name} already exists in the pod")

    def _undo(self, record: Attachment, pending: Pending) -> None:
        """Everything back; the claim is let finish, so that its release comes after it."""
        try:
            with self._claimer.turns.waiting():
                pending.future.exception(CLAIM_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError):
            pass
        addresses = pending.future.result() if _succeeded(pending.future) else ()
        try:
            self._extras.detach(record)
            wire.doom_host(self._sockets.route(), record.host_name, addresses)
            self._admission.expel(record.host_name)
            self._records.put(msgspec.structs.replace(record, state=DELETED))
        except (KernelError, OSError) as error:
            # the record still says "wiring": the next start takes it from there
            log.error("undo failed interface=%s error=%s", record.host_name, error)
            return
        self._reaper.add(record.key)

    # -- DEL ------------------------------------------------------------------------------------------------------

    def delete(self, request: Request, inner: int | None) -> None:
        # without a record our state is gone, or ADD never came: give back what the names lead to
        record = self._records.get((request.container_id, request.interface, "")) or self._orphan(request)
        owner = self._records.owner(record.host_name)
        if owner is None or owner.key == record.key:  # else the names are someone else's by now
            self._admission.expel(record.host_name)
            self._extras.detach(record)
            wire.retire_host(self._sockets.route(), record.host_name)
        else:
            self._extras.detach(msgspec.structs.replace(record, limits=None))
        reached("doomed")
        self._records.put(msgspec.structs.replace(record, state=DELETED))
        reached("deleted")
        if inner is not None:
            try:
                wire.doom_pod(request.interface, inner, self._sockets.home())
            except KernelError as error:
                log.info("pod side not reachable netns=%s error=%s", request.netns, error)
        self._reaper.add(record.key)
        log.info("detached pod=%s/%s addresses=%s", record.namespace, record.pod, ",".join(record.addresses))

    def _orphan(self, request: Request) -> Attachment:
        try:
            handle = self._handle(request)
        except CniError:
            handle = plan.handle(request)
        return onrecord.orphan(request, ROUTED, handle)

    # -- CHECK ----------------------------------------------------------------------------------------------------

    def check(self, request: Request, inner: int) -> None:
        record, previous = onrecord.to_check(self._records, request)
        faults = self._faults(record, inner)
        told = [address.address.partition("/")[0] for address in previous.ips]
        if missing := [address for address in record.addresses if address not in told]:
            faults.append(f"prevResult has {', '.join(told) or 'no address'}, the attachment {', '.join(missing)}")
        if faults:
            raise CniError(spec.DRIFT, "the attachment is damaged", "; ".join(faults))

    def _faults(self, record: Attachment, inner: int) -> list[str]:
        wiring = _wiring(record)
        faults = wire.host_faults(self._sockets.route(), wiring) + wire.pod_faults(wiring, inner)
        faults += self._extras.faults(record)
        return faults + self._admission.missing(speaker_of(record))

    # -- GC, STATUS -----------------------------------------------------------------------------------------------

    def collect(self, request: Request) -> None:
        """Host ends that no record knows."""
        socket = self._sockets.route()
        found = [link for link in socket.links() if link.kind == "veth" and link.name.startswith(plan.PREFIX)]
        # the records after the links: an ADD writes its record before it makes its link
        known = {record.host_name for record in self._records.all()}
        for link in found:
            if link.name not in known:
                log.warning("left-over interface removed name=%s", link.name)
                wire.doom_index(socket, link.index, ())
                self._extras.forget(link.name)
                self._reaper.wake()
        found_plan = self._plan(request)
        if found_plan is not None and self._files is not None and request.valid is not None:
            live = {record.key[:2] for record in self._records.all()} | request.valid
            for one in self._files.store(found_plan.directory, request.network).collect(live):
                log.warning("left-over reservation released address=%s container=%s", one.address, one.owner[0])

    def status(self, request: Request) -> None:
        self._readiness.check()
        if self._files is not None and self._plan(request) is not None:
            self._files.usable(request)
        else:
            self._readiness.check_ipam(asked.asked(request).families)


def _succeeded(future: concurrent.futures.Future[tuple[str, ...]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _wiring(record: Attachment) -> Wiring:
    return Wiring(record.host_name, record.interface, record.pod_mac, record.mtu, record.addresses)
