"""What each namespace gets by itself: the ServiceAccount `default` and the ConfigMap kube-root-ca.crt."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from podwire.controllers.cache import World, key_of
from podwire.controllers.loop import Controller, Trigger
from podwire.controllers.objects import Object, name_of, status
from podwire.kube.client import ApiError
from podwire.model.gvr import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS

ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"
_DESCRIPTION = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints."


class Accounts:
    """`ca_pem` is the certificate authority that signed the API server's certificate."""

    def __init__(self, world: World, ca_pem: str) -> None:
        self._world, self._ca_pem = world, ca_pem

    def controller(self) -> Controller:
        triggers = {
            NAMESPACES: lambda old, new: [name_of(new)] if new is not None else [],
            SERVICEACCOUNTS: _only(ACCOUNT),
            CONFIGMAPS: _only(ROOT_CA),
        }
        return Controller("accounts", triggers, self.reconcile)

    async def reconcile(self, namespace: str) -> None:
        found = self._world.store(NAMESPACES).get(namespace)
        if found is None or self._world.store(NAMESPACES).leaving(found) or status(found).get("phase") == "Terminating":
            return
        try:
            await self._account(namespace)
            await self._root_ca(namespace)
        except ApiError as error:
            # It ended meanwhile, or somebody made the same; news of either comes by itself.
            if error.status not in (403, 404) and not error.already_exists:
                raise

    async def _account(self, namespace: str) -> None:
        if self._world.store(SERVICEACCOUNTS).get(ACCOUNT, namespace) is None:
            account = {"apiVersion": "v1", "kind": "ServiceAccount"}
            await self._world.create(
                SERVICEACCOUNTS, {**account, "metadata": {"name": ACCOUNT, "namespace": namespace}}
            )

    async def _root_ca(self, namespace: str) -> None:
        data = {"ca.crt": self._ca_pem}
        old = self._world.store(CONFIGMAPS).get(ROOT_CA, namespace)
        if old is None:
            metadata: Object = {"name": ROOT_CA, "namespace": namespace}
            metadata["annotations"] = {"kubernetes.io/description": _DESCRIPTION}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            await self._world.create(CONFIGMAPS, body)
        elif old.get("data") != data:
            await self._world.update(CONFIGMAPS, {**old, "data": data})


def _only(name: str) -> Trigger:
    """Changes of the object of this name concern its namespace."""

    def trigger(old: Object | None, new: Object | None) -> Iterable[Hashable]:
        return {key_of(one)[0] for one in (old, new) if one is not None and name_of(one) == name}

    return trigger
