"""The API as the agent uses it, with each round trip counted: by verb and resource, refusals and lost writes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from podwire.agent import families
from podwire.agent.figures import Figures
from podwire.model.api import ApiError, InSync, Object, Update
from podwire.model.gvr import GVR


class CountedApi:
    """Implements Api, and its watches take `decode`; everything goes to `api`."""

    def __init__(self, api: Any, figures: Figures) -> None:
        self._api = api
        self._figures = figures

    @contextmanager
    def _counted(self, verb: str, gvr: GVR) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except ApiError as error:
            self._figures.add(families.API_ERRORS, verb, gvr.plural, str(error.status))
            if error.conflict:
                self._figures.add(families.API_CONFLICTS, gvr.plural)
            raise
        finally:
            self._figures.observe(families.API_REQUESTS, time.perf_counter() - began, verb, gvr.plural)

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        with self._counted("get", gvr):
            found: Object = await self._api.get(gvr, name, namespace, subresource)
            return found

    async def list(self, gvr: GVR, namespace: str = "", **options: Any) -> tuple[list[Object], str]:
        with self._counted("list", gvr):
            items, version = await self._api.list(gvr, namespace, **options)
            return items, version

    async def create(self, gvr: GVR, obj: Object, namespace: str = "", **options: Any) -> Object:
        with self._counted("create", gvr):
            made: Object = await self._api.create(gvr, obj, namespace, **options)
            return made

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        with self._counted("update", gvr):
            made: Object = await self._api.update(gvr, obj, subresource=subresource)
            return made

    async def patch(self, gvr: GVR, name: str, patch: Any, namespace: str = "", **options: Any) -> Object:
        with self._counted("patch", gvr):
            made: Object = await self._api.patch(gvr, name, patch, namespace, **options)
            return made

    async def delete(self, gvr: GVR, name: str, namespace: str = "", **options: Any) -> None:
        with self._counted("delete", gvr):
            await self._api.delete(gvr, name, namespace, **options)

    async def watch(
        self, gvr: GVR, namespace: str = "", *, decode: type[Any] | None = None, **options: Any
    ) -> AsyncIterator[Update | InSync]:
        """As Api's."""
        async for item in self._api.watch(gvr, namespace, decode=decode, **options):
            if isinstance(item, Update):
                self._figures.add(families.WATCH_UPDATES, gvr.plural)
            yield item

    async def close(self) -> None:
        await self._api.close()
