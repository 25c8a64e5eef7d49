"""EndpointSlices and Endpoints: the loop around `slices`. Services without a selector are left to their owners."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from podwire.controllers import slices
from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, labels, meta, name_of, notes, spec, stamp, status
from podwire.controllers.pods import phase, ready
from podwire.kube.client import ApiError
from podwire.model.gvr import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES

COMPONENT = "endpoint-slice-controller"
CHANGED_AT = "endpoints.kubernetes.io/last-change-trigger-time"
MANAGED_BY = {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}


def pod_view(pod: Object) -> object:
    """The part of a pod that endpoints depend on."""
    wanted, leaving = spec(pod), "deletionTimestamp" in meta(pod)
    named = (wanted.get("nodeName"), wanted.get("hostname"), wanted.get("subdomain"))
    return labels(pod), named, status(pod).get("podIP"), status(pod).get("podIPs"), phase(pod), ready(pod), leaving


def selects(service: Object, pod: Object) -> bool:
    """A service's selector is a plain set of labels; an empty one selects nothing."""
    wanted = spec(service).get("selector") or {}
    return bool(wanted) and wanted.items() <= labels(pod).items()


class Endpoints:
    def __init__(self, world: World) -> None:
        self._world = world
        world.store(ENDPOINTSLICES).index("service", lambda one: [labels(one).get(slices.SERVICE, "")])

    def controller(self) -> Controller:
        triggers = {
            SERVICES: lambda old, new: {key_of(one) for one in (old, new) if one is not None},
            PODS: self._pod_changed,
            NODES: self._node_changed,
            ENDPOINTSLICES: self._slice_changed,
            ENDPOINTS: lambda old, new: {key_of(one) for one in (old, new) if one is not None},
        }
        return Controller("endpoints", triggers, self.reconcile)

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if old is not None and new is not None and pod_view(old) == pod_view(new):
            return []
        found = [pod for pod in (old, new) if pod is not None]
        services = self._world.store(SERVICES).by("namespace", key_of(found[0])[0])
        return {key_of(service) for service in services if any(selects(service, pod) for pod in found)}

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        """Only a zone matters."""
        zones = {labels(node).get(slices.ZONE) if node else None for node in (old, new)}
        if len(zones) == 1:
            return []
        return {key_of(service) for service in self._world.store(SERVICES)}

    def _slice_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        for one in (old, new):
            if one is not None and labels(one).get(slices.MANAGED_BY) == slices.US:
                yield key_of(one)[0], labels(one).get(slices.SERVICE, "")

    async def reconcile(self, key: Key) -> float | None:
        service = self._world.store(SERVICES).get(key[1], key[0])
        if service is None:
            await self._forget(key)
            return None
        if "deletionTimestamp" in meta(service) or not spec(service).get("selector"):
            return None
        if spec(service).get("type") == "ExternalName":
            return None
        chosen = [pod for pod in self._world.store(PODS).by("namespace", key[0]) if selects(service, pod)]
        await self._write_slices(service, chosen)
        await self._write_endpoints(service, chosen)
        return None

    def _slices(self, key: Key) -> list[Object]:
        store = self._world.store(ENDPOINTSLICES)
        return [
            one
            for one in store.by("service", key[1])
            if key_of(one)[0] == key[0] and labels(one).get(slices.MANAGED_BY) == slices.US and not store.leaving(one)
        ]

    async def _write_slices(self, service: Object, chosen: list[Object]) -> None:
        nodes = {name_of(node): node for node in self._world.store(NODES)}
        plan = slices.plan(service, chosen, nodes, self._slices(key_of(service)))
        for wanted in plan.write:
            if wanted.name:
                await self._world.update(ENDPOINTSLICES, wanted.body)
            else:
                await self._create_slice(service, wanted.body)
        for surplus in plan.delete:
            await self._world.delete(ENDPOINTSLICES, surplus)

    async def _create_slice(self, service: Object, body: Object) -> None:
        try:
            await self._world.create(ENDPOINTSLICES, body)
        except ApiError as error:
            if error.status == 403:  # the namespace is on its way out
                return
            said = f"Failed to create EndpointSlice for Service {'/'.join(key_of(service))}: {error}"
            self._world.tell(service, "Warning", "FailedToCreateEndpointSlice", said, COMPONENT)
            raise

    async def _write_endpoints(self, service: Object, chosen: list[Object]) -> None:
        namespace, name = key_of(service)
        subsets = slices.endpoints_subsets(service, chosen)
        old = self._world.store(ENDPOINTS).get(name, namespace)
        marks = {**labels(service), **MANAGED_BY}
        if spec(service).get("clusterIP") == "None":
            marks[slices.HEADLESS] = ""
        if old is not None and (old.get("subsets") or []) == subsets and labels(old) == marks:
            return
        metadata = {**(meta(old) if old else {"name": name, "namespace": namespace}), "labels": marks}
        changed = {CHANGED_AT: stamp(self._world.now())}
        metadata["annotations"] = {**(notes(old) if old else {}), **changed}
        body: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
        if old is not None:
            await self._world.update(ENDPOINTS, body)
            return
        try:
            await self._world.create(ENDPOINTS, body)
        except ApiError as error:
            if error.status != 403:
                raise

    async def _forget(self, key: Key) -> None:
        """The service is gone: what was made for it goes (slices by their owner reference too)."""
        for one in self._slices(key):
            await self._world.delete(ENDPOINTSLICES, one)
        old = self._world.store(ENDPOINTS).get(key[1], key[0])
        if (
            old is not None
            and MANAGED_BY.items() <= labels(old).items()
            and not self._world.store(ENDPOINTS).leaving(old)
        ):
            await self._world.delete(ENDPOINTS, old)
