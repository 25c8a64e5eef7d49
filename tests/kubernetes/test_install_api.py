"""The manifests before a genuine API server: accepted, applied twice, enough for the agent's work, and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from podwire.agent import condition, config, duties
from podwire.cli.install import install as install_command
from podwire.install import apply, daemon, manifests
from podwire.install.options import AGENT, CONTROLLER, NODE_GROUP, NODE_USER, Options
from podwire.ipam import blocks
from podwire.ipam.claims import Allocator
from podwire.ipam.wish import Wish
from podwire.kube.client import Client
from podwire.kube.events import Recorder
from podwire.kube.kubeconfig import Cluster
from podwire.model.api import ApiError
from podwire.model.block import affinity_name, block_name
from podwire.model.gvr import (
    BLOCKAFFINITIES,
    CONFIGMAPS,
    DAEMONSETS,
    EVENTS,
    IPAMBLOCKS,
    IPAMHANDLES,
    IPPOOLS,
    LEASES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    TIERS,
)
from podwire.model.policykinds import BY_API
from tests.kubernetes.plane import Plane, programs, running
from tests.policies.refused import REFUSED, Refused

Object = dict[str, Any]
Identity = Callable[[Plane, str], Awaitable[Cluster]]
OPTIONS = Options(block_size=30)  # four addresses a block
FACTS = {"namespace": "default", "pod": "web"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(programs(), tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture(scope="module")
def installed(plane: Plane) -> Plane:
    """With the manifests applied, and two nodes with their agents' pods."""

    async def put() -> None:
        async with speaking(plane, plane.admin) as client:
            await apply.apply(client, OPTIONS, lambda _: None)
            for node in ("n1", "n2"):
                await client.create(NODES, a_node(node))
                spec = {
                    "nodeName": node,
                    "serviceAccountName": AGENT,
                    "containers": [{"name": "agent", "image": "x:1"}],
                    "tolerations": [{"operator": "Exists"}],
                }
                head = {"name": f"agent-{node}", "namespace": OPTIONS.namespace}
                await client.create(PODS, {"metadata": head, "spec": spec})

    asyncio.run(put())
    return plane


def a_node(name: str) -> Object:
    cidr = f"10.244.{name[1]}.0/24"
    return {"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}


@asynccontextmanager
async def speaking(plane: Plane, cluster: Cluster) -> AsyncIterator[Client]:
    client = plane.client(cluster)
    try:
        yield client
    finally:
        await client.close()


async def in_a_pod(plane: Plane, node: str) -> Cluster:
    """The token that kubelet asks for on behalf of the agent's pod; bound to nothing where `node` is empty."""
    spec = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": f"agent-{node}"}} if node else {}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    async with speaking(plane, plane.admin) as client:
        made = await client.create(SERVICEACCOUNTS, body, OPTIONS.namespace, subresource="token", name=AGENT)
    return plane.with_token(made["status"]["token"])


async def as_host_service(plane: Plane, node: str) -> Cluster:
    return plane.cluster(f"{NODE_USER}{node}", NODE_GROUP)


IDENTITIES = {"pod": in_a_pod, "host service": as_host_service}
identities = pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES)


def dry_run(*arguments: str) -> str:
    done = CliRunner().invoke(install_command, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_kubectl_accepts_the_manifests_on_an_empty_cluster(plane: Plane) -> None:
    for how in ((), ("--server-side",)):
        done = plane.kubectl("apply", *how, "--dry-run=server", "-f", "-", text=dry_run("--dry-run"))
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
        assert done.stdout.count("(server dry run)") == len(manifests.everything(Options()))


async def test_applying_again_changes_nothing(installed: Plane) -> None:
    async def versions(client: Client) -> list[str]:
        found = []
        for each in manifests.everything(OPTIONS):
            metadata = each["metadata"]
            stored = (await client.get(apply.KINDS[each["kind"]], metadata["name"], metadata.get("namespace", "")))[
                "metadata"
            ]
            found.append(f"{each['kind']} {stored['name']} {stored.get('generation', stored['resourceVersion'])}")
        return found

    said: list[str] = []
    async with speaking(installed, installed.admin) as client:
        before = await versions(client)
        await apply.apply(client, OPTIONS, said.append)
        assert await versions(client) == before
    assert "address pools stay as they are: default-ipv4-ippool" in said


def test_kubectl_accepts_the_pool_when_its_kind_is_served(installed: Plane) -> None:
    text = dry_run("--dry-run", "pool", "--set", "block-size=30")
    done = installed.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=text)
    assert done.returncode == 0 and "ippool.projectcalico.org/default-ipv4-ippool" in done.stdout, done.stderr
    for name in ("kube-admin", "default", "kube-baseline"):
        assert f"tier.projectcalico.org/{name}" in done.stdout


ACCEPTED = Path(__file__).parents[1] / "policies" / "accepted.yaml"
BY_RULE = {name: case for name, case in REFUSED.items() if case.by_rule}


def test_policies_as_documented_are_accepted(installed: Plane) -> None:
    done = installed.kubectl("apply", "-f", "-", text=ACCEPTED.read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" created") == len(list(yaml.safe_load_all(ACCEPTED.read_text())))
    for names in ("netpol", "np", "gnp", "tiers", "cnp", "anp", "banp", "netsets", "gnetsets", "snp", "sgnp", "sknp"):
        done = installed.kubectl("get", names, "--no-headers")
        assert done.returncode == 0 and done.stdout, f"{names}: {done.stderr}"
    done = installed.kubectl("get", "netpol", "-o", "name")
    assert all(line.startswith("networkpolicy.networking.k8s.io/") for line in done.stdout.split())
    done = installed.kubectl("delete", "-f", "-", text=ACCEPTED.read_text())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", BY_RULE.values(), ids=BY_RULE)
async def test_definitions_refuse_mistakes_by_themselves(installed: Plane, case: Refused) -> None:
    kind, metadata = BY_API[case.object["apiVersion"], case.object["kind"]].gvr, case.object["metadata"]
    async with speaking(installed, installed.admin) as client:
        with pytest.raises(ApiError) as caught:
            if kind == TIERS:  # it is there
                await client.patch(kind, metadata["name"], {"spec": case.object["spec"]})
            else:
                await client.create(kind, case.object, metadata.get("namespace", ""))
    assert caught.value.reason == "Invalid", caught.value.message
    fields = [cause.get("field", "") for cause in caught.value.details["causes"]]
    assert any(field.startswith(case.path) for field in fields), fields


@identities
async def test_an_agent_can_do_its_work(installed: Plane, identity: Identity) -> None:
    """Addresses of its own blocks and of another node's, a tunnel's address, all given back; annotations; events."""
    async with (
        speaking(installed, await identity(installed, "n1")) as one,
        speaking(installed, await identity(installed, "n2")) as two,
    ):
        first, second = Allocator(one, "n1", pod_cidrs=["10.244.1.0/24"]), Allocator(two, "n2", pod_cidrs=[])
        try:
            await first.assign_tunnel()
            await asyncio.gather(*(first.assign(Wish(f"net.a{n}", FACTS)) for n in range(6)))
            lent = await second.assign(Wish("net.b", FACTS, exact=("10.244.1.7",)))
            assert lent == ["10.244.1.7"], "a node borrows from another's block"
            stored = await one.get(IPAMBLOCKS, block_name("10.244.1.4/30"))
            assert stored["spec"]["affinity"] == "host:n1"
            for handle in [f"net.a{n}" for n in range(6)]:
                assert await first.release(handle)
            assert await second.release("net.b") == lent
            assert await first.release("vxlan-tunnel-addr-n1")
        finally:
            await first.close()
            await second.close()
        await one.patch(NODES, "n1", {"metadata": {"annotations": {"projectcalico.org/IPv4Address": "192.0.2.1/24"}}})
        await Recorder(one).record({**a_node("n1"), "kind": "Node"}, "Normal", "Test", "told", "agent", host="n1")
    async with speaking(installed, installed.admin) as client:
        assert "told" in {event["message"] for event in (await client.list(EVENTS, "default"))[0]}
        assert "projectcalico.org/IPv4Address" in (await client.get(NODES, "n1"))["metadata"]["annotations"]


def a_block(node: str, owner: str = "", cidr: str = "10.244.9.0/30", *, handle: str = "net.x") -> Object:
    """A block of `node`, its first address held by a pod of `owner`."""
    held = [0, None, None, None] if owner else [None] * 4
    return {
        "apiVersion": IPAMBLOCKS.api_version,
        "kind": "IPAMBlock",
        "metadata": {"name": block_name(cidr)},
        "spec": {
            "cidr": cidr,
            "affinity": f"host:{node}",
            "strictAffinity": False,
            "allocations": held,
            "unallocated": [n for n, holder in enumerate(held) if holder is None],
            "attributes": [{"handle_id": handle, "secondary": {**FACTS, "node": owner}}] if owner else [],
        },
    }


def an_affinity(node: str) -> Object:
    spec = {"cidr": "10.244.9.0/30", "node": node, "state": "confirmed", "type": "host", "deleted": False}
    head = {"apiVersion": BLOCKAFFINITIES.api_version, "kind": "BlockAffinity"}
    return {**head, "metadata": {"name": affinity_name(node, "10.244.9.0/30")}, "spec": spec}


def a_handle(name: str) -> Object:
    head = {"apiVersion": IPAMHANDLES.api_version, "kind": "IPAMHandle", "metadata": {"name": name}}
    return {**head, "spec": {"handleID": name, "block": {"10.244.9.0/30": 1}, "deleted": False}}


def an_event(host: str) -> Object:
    about = {"kind": "Node", "name": host, "apiVersion": "v1"}
    return {
        "metadata": {"name": f"e-{host}", "namespace": "default"},
        "involvedObject": about,
        "type": "Warning",
        "reason": "Lie",
        "message": "lie",
        "source": {"component": "podwire-agent", "host": host},
    }


Act = Callable[[Client, Client], Awaitable[Any]]


async def _take_address(admin: Client, agent: Client) -> None:
    """Give the address of another node's pod to a pod of its own."""
    stored = await admin.create(IPAMBLOCKS, a_block("n2", "n2"))
    changed = a_block("n2", "n1", handle="net.mine")
    await agent.update(IPAMBLOCKS, {**stored, "spec": changed["spec"]})


async def _free_address(admin: Client, agent: Client) -> None:
    stored = await admin.create(IPAMBLOCKS, a_block("n1", "n2"))  # n2 borrowed it from n1
    await agent.update(IPAMBLOCKS, {**stored, "spec": a_block("n1")["spec"]})


async def _steal_block(admin: Client, agent: Client) -> None:
    stored = await admin.create(IPAMBLOCKS, a_block("n2"))
    await agent.update(IPAMBLOCKS, {**stored, "spec": a_block("n1")["spec"]})


async def _orphan_block(admin: Client, agent: Client) -> None:
    stored = await admin.create(IPAMBLOCKS, a_block("n2", "n2"))
    stored["spec"].pop("affinity")
    await agent.update(IPAMBLOCKS, stored)


async def _delete_block(admin: Client, agent: Client) -> None:
    await admin.create(IPAMBLOCKS, a_block("n2"))
    await agent.delete(IPAMBLOCKS, block_name("10.244.9.0/30"))


async def _delete_lent_block(admin: Client, agent: Client) -> None:
    await admin.create(IPAMBLOCKS, a_block("n1", "n2"))
    await agent.delete(IPAMBLOCKS, block_name("10.244.9.0/30"))


async def _take_affinity(admin: Client, agent: Client) -> None:
    stored = await admin.create(BLOCKAFFINITIES, an_affinity("n2"))
    stored["spec"]["node"] = "n1"
    await agent.update(BLOCKAFFINITIES, stored)


async def _delete_affinity(admin: Client, agent: Client) -> None:
    await admin.create(BLOCKAFFINITIES, an_affinity("n2"))
    await agent.delete(BLOCKAFFINITIES, affinity_name("n2", "10.244.9.0/30"))


async def _delete_tunnel_handle(admin: Client, agent: Client) -> None:
    await admin.create(IPAMHANDLES, a_handle("vxlan-tunnel-addr-n2"))
    await agent.delete(IPAMHANDLES, "vxlan-tunnel-addr-n2")


def _notes(node: str, **changes: Any) -> Act:
    return lambda admin, agent: agent.patch(NODES, node, {"metadata": changes})


REFUSED: dict[str, tuple[Act, str]] = {
    "another node's address": (
        _notes("n2", annotations={"projectcalico.org/IPv4Address": "192.0.2.66/24"}),
        "no other Node than its own",
    ),
    "its node's labels": (_notes("n1", labels={"disk": "hdd"}), "nothing but annotations"),
    "foreign annotations of its node": (_notes("n1", annotations={"other/key": "x"}), "nothing but annotations"),
    "its node's taints": (
        lambda admin, agent: agent.patch(NODES, "n1", {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}),
        "nothing but annotations",
    ),
    "another pod's address": (_take_address, "neither gives nor takes"),
    "a borrower's address": (_free_address, "neither gives nor takes"),
    "another node's block": (_steal_block, "takes blocks for no other node, and from none"),
    "a block from its node": (_orphan_block, "takes blocks for no other node, and from none"),
    "a new block for another node": (lambda _, agent: agent.create(IPAMBLOCKS, a_block("n2")), "takes blocks for"),
    "a new block with another's pod": (
        lambda _, agent: agent.create(IPAMBLOCKS, a_block("n1", "n2")),
        "neither gives nor takes",
    ),
    "deletion of another's block": (_delete_block, "takes blocks for no other node"),
    "deletion of what is lent": (_delete_lent_block, "neither gives nor takes"),
    "an affinity for another node": (lambda _, a: a.create(BLOCKAFFINITIES, an_affinity("n2")), "BlockAffinity"),
    "another node's affinity": (_take_affinity, "a BlockAffinity is written by the agent of its node"),
    "deletion of another's affinity": (_delete_affinity, "a BlockAffinity is written by the agent of its node"),
    "another tunnel's handle": (
        lambda _, agent: agent.create(IPAMHANDLES, a_handle("vxlan-tunnel-addr-n2")),
        "the handle of a tunnel address",
    ),
    "deletion of another tunnel's handle": (_delete_tunnel_handle, "the handle of a tunnel address"),
    "an event in another's name": (
        lambda _, agent: agent.create(EVENTS, an_event("n2"), "default"),
        "events of an agent name its node",
    ),
}


@pytest.fixture
async def admin(installed: Plane) -> AsyncIterator[Client]:
    """Of an administrator; what a test made of blocks, affinities and handles goes with it."""
    async with speaking(installed, installed.admin) as client:
        yield client
        for kind in (IPAMBLOCKS, BLOCKAFFINITIES, IPAMHANDLES):
            for item in (await client.list(kind))[0]:
                await client.delete(kind, item["metadata"]["name"])


@identities
@pytest.mark.parametrize(("act", "words"), REFUSED.values(), ids=REFUSED)
async def test_an_agent_writes_nothing_of_other_nodes(
    installed: Plane, admin: Client, identity: Identity, act: Act, words: str
) -> None:
    async with speaking(installed, await identity(installed, "n1")) as agent:
        with pytest.raises(ApiError, match=words) as refused:
            await act(admin, agent)
    assert refused.value.status == 403 and refused.value.message.endswith("this one is of node n1")


@identities
async def test_of_statuses_an_agent_writes_its_part(installed: Plane, admin: Client, identity: Identity) -> None:
    """Addresses as annotations of its pods, and that its network is there; nothing else, and nothing of others."""
    with contextlib.suppress(ApiError):  # nobody makes it here; the other identity's turn finds it
        await admin.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
    for node in ("n1", "n2"):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "automountServiceAccountToken": False}
        await admin.create(PODS, {"metadata": {"name": f"on-{node}"}, "spec": spec}, "default")
    marks = {"cni.projectcalico.org/podIP": "10.244.1.5/32"}
    up = condition.condition("2026-01-01T00:00:00Z")
    async with speaking(installed, await identity(installed, "n1")) as one:

        async def pod(name: str, patch: Object) -> None:
            await one.patch(PODS, name, patch, "default", subresource="status")

        async def node(name: str, conditions: list[Object]) -> None:
            patch = {"status": {"conditions": conditions}}
            await one.patch(NODES, name, patch, kind="strategic", subresource="status")

        await pod("on-n1", {"metadata": {"annotations": marks}})
        await node("n1", [up])
        for refused in (
            pod("on-n2", {"metadata": {"annotations": marks}}),
            pod("on-n1", {"metadata": {"annotations": {"other/name": "x"}}}),
            pod("on-n1", {"metadata": {"labels": {"app": "x"}}}),
            pod("on-n1", {"status": {"podIP": "10.244.1.5"}}),
            node("n2", [up]),
            node("n1", [up, {**up, "type": "Ready", "status": "True"}]),
        ):
            with pytest.raises(ApiError, match="podwire-agent-own-node"):
                await refused
    told = await admin.get(PODS, "on-n1", "default")
    assert told["metadata"]["annotations"] == marks and "podIP" not in told["status"]
    assert condition.told(await admin.get(NODES, "n1"))
    for name in ("on-n1", "on-n2"):
        await admin.delete(PODS, name, "default", grace=0)


async def test_a_block_keeps_what_others_hold(installed: Plane, admin: Client) -> None:
    """The part of another's block that is free, or its own, a node may write; also when records change places."""
    blocks.from_spec(a_block("n2", "n2")["spec"])  # what the test writes is a sound block
    stored = await admin.create(IPAMBLOCKS, a_block("n2", "n2"))
    mine = {"handle_id": "net.mine", "secondary": {**FACTS, "node": "n1"}}
    async with speaking(installed, await in_a_pod(installed, "n1")) as agent:
        stored["spec"] |= {"attributes": [mine, *stored["spec"]["attributes"]], "allocations": [1, 0, None, None]}
        stored = await agent.update(IPAMBLOCKS, stored)
        stored["spec"] |= {"attributes": stored["spec"]["attributes"][1:], "allocations": [0, None, None, None]}
        await agent.update(IPAMBLOCKS, stored)


async def test_the_controller_can_do_its_work(installed: Plane, admin: Client, tmp_path: Path) -> None:
    """It takes the Lease, and frees what a vanished node held, with its own rights."""
    await admin.create(IPAMBLOCKS, a_block("gone", "gone"))
    await admin.create(BLOCKAFFINITIES, an_affinity("gone"))
    await admin.create(IPAMHANDLES, a_handle("net.x"))
    (tmp_path / "agent.toml").write_text(daemon.settings(OPTIONS))
    settings = config.load(tmp_path / "agent.toml", {}, node_name=duties.NOBODY, leak_grace=1)
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await admin.create(SERVICEACCOUNTS, body, OPTIONS.namespace, subresource="token", name=CONTROLLER)
    async with speaking(installed, installed.with_token(made["status"]["token"])) as client:
        work = asyncio.ensure_future(duties.serve(client, settings))
        try:
            async with asyncio.timeout(60):
                while any([(await admin.list(kind))[0] for kind in (IPAMBLOCKS, BLOCKAFFINITIES, IPAMHANDLES)]):
                    assert not work.done(), work.exception()
                    await asyncio.sleep(0.2)
        finally:
            work.cancel()
            await asyncio.wait([work])
    lease = await admin.get(LEASES, CONTROLLER, OPTIONS.namespace)
    assert "holderIdentity" in lease["spec"]


async def test_an_identity_without_a_node_writes_nothing(installed: Plane) -> None:
    async with speaking(installed, await in_a_pod(installed, "")) as agent:
        await agent.list(NODES)
        with pytest.raises(ApiError, match="must name its node"):
            await agent.patch(NODES, "n1", {"metadata": {"annotations": {"projectcalico.org/ASNumber": "1"}}})


@identities
async def test_an_agent_reads_no_secrets_and_runs_nothing(installed: Plane, identity: Identity) -> None:
    async with speaking(installed, await identity(installed, "n1")) as agent:
        for refused in (
            agent.list(SECRETS),
            agent.list(CONFIGMAPS, "kube-system"),
            agent.list(DAEMONSETS),
            agent.create(PODS, {"metadata": {"name": "x"}, "spec": {"containers": []}}, "default"),
            agent.delete(PODS, "agent-n2", OPTIONS.namespace),
            agent.delete(NODES, "n1"),
            agent.delete(IPPOOLS, "default-ipv4-ippool"),
            agent.create(SERVICEACCOUNTS, {"spec": {}}, OPTIONS.namespace, subresource="token", name=AGENT),
        ):
            with pytest.raises(ApiError) as caught:
                await refused
            assert caught.value.status == 403


async def test_a_policy_that_the_server_finds_no_fault_with(installed: Plane) -> None:
    done = installed.kubectl("get", "validatingadmissionpolicy", "-o", "jsonpath={.items[*].status.typeChecking}")
    assert done.stdout.strip() in ("", "{}"), done.stdout
