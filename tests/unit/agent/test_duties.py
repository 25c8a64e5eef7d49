"""`podwire controller`: its page of figures, reachable from elsewhere, tells who leads."""

from __future__ import annotations

import asyncio

import aiohttp

from podwire.agent import config, duties, health
from podwire.agent.health import Health
from podwire.kube.fake import FakeApi


async def test_the_controller_says_that_it_leads() -> None:
    settings = config.load(environment={}, node_name=duties.NOBODY)
    told = Health()
    server = await health.listen(told, 0, everywhere=True)
    port = server._listening[0].sockets[0].getsockname()[1]
    work = asyncio.ensure_future(duties.serve(FakeApi(), settings, told))
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            while True:
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
                if "podwire_cluster_leader 1" in text:
                    break
                assert not work.done()
                await asyncio.sleep(0.05)
            assert 'podwire_api_request_seconds_count{verb="create",resource="leases"}' in text
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
    finally:
        work.cancel()
        await asyncio.wait([work])
        await server.close()
