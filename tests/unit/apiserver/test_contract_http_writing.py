"""What the recorded requests cannot show: protobuf bodies, races, tokens, whole collections, addresses given out.

Each test also runs unchanged against a genuine API server.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

PROTOBUF = "application/vnd.kubernetes.protobuf"
BODIES = {
    each["object"]["kind"]: each
    for each in json.loads(Path(__file__).with_name("vectors.json").read_text())["protobuf"]
}
MERGE = "application/merge-patch+json"


def core(space: str, rest: str) -> str:
    return f"/api/v1/namespaces/{space}/{rest}"


def config(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ConfigMap", "/api/v1/namespaces/{ns}/configmaps"),
        ("Secret", "/api/v1/namespaces/{ns}/secrets"),
        ("NetworkPolicy", "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"),
        ("Lease", "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"),
    ],
)
async def test_protobuf_bodies(http, space, kind, path):
    body = base64.b64decode(BODIES[kind]["body"])
    accept = f"{PROTOBUF},application/json"
    made = await http("POST", path.replace("{ns}", space), body, PROTOBUF, Accept="application/json")
    assert made.status == 201, made.text
    assert made.json["kind"] == kind
    assert made.json["metadata"]["name"] == BODIES[kind]["object"]["metadata"]["name"]
    async with http.open("GET", path.replace("{ns}", space), Accept=accept) as answer:
        assert answer.status == 200


async def test_a_protobuf_body_that_is_none(http, space):
    answer = await http("POST", core(space, "configmaps"), b"k8s\0nonsense", PROTOBUF)
    assert answer.status == 400 and answer.json["reason"] == "BadRequest"


async def test_a_body_over_the_limit(http, space):
    big = config("big", a="x" * (3 << 20))
    answer = await http("POST", core(space, "configmaps"), big)
    assert answer.status == 413
    assert answer.json["reason"] == "RequestEntityTooLarge"


async def test_one_of_many_writers_wins(http, space):
    made = (await http("POST", core(space, "configmaps"), config("race"))).json
    version = made["metadata"]["resourceVersion"]

    async def write(number: int) -> int:
        obj = config("race", winner=str(number))
        obj["metadata"]["resourceVersion"] = version
        return int((await http("PUT", core(space, "configmaps/race"), obj)).status)

    statuses = await asyncio.gather(*(write(n) for n in range(8)))
    assert sorted(statuses) == [200] + [409] * 7


async def test_patches_without_a_version_do_not_conflict(http, space):
    await http("POST", core(space, "configmaps"), config("shared"))

    async def write(number: int) -> int:
        patch = {"data": {f"k{number}": "v"}}
        return int((await http("PATCH", core(space, "configmaps/shared"), patch, MERGE)).status)

    assert set(await asyncio.gather(*(write(n) for n in range(4)))) == {200}
    found = (await http("GET", core(space, "configmaps/shared"))).json
    assert sorted(found["data"]) == ["k0", "k1", "k2", "k3"]


async def test_a_write_that_changes_nothing_keeps_the_version(http, space):
    made = (await http("POST", core(space, "configmaps"), config("same", a="b"))).json
    again = (await http("PATCH", core(space, "configmaps/same"), {"data": {"a": "b"}}, MERGE)).json
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_generated_names_differ(http, space):
    names = set()
    for _ in range(5):
        answer = await http("POST", core(space, "configmaps"), {"metadata": {"generateName": "g-"}})
        names.add(answer.json["metadata"]["name"])
        assert answer.json["metadata"]["generateName"] == "g-"
    assert len(names) == 5 and all(len(name) == 7 for name in names)


async def test_deleting_a_selection(http, space):
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "1"}), ("c", {})):
        await http("POST", core(space, "configmaps"), {"metadata": {"name": name, "labels": labels}})
    gone = await http("DELETE", core(space, "configmaps?labelSelector=x%3D1"))
    assert gone.status == 200
    left = (await http("GET", core(space, "configmaps"))).json["items"]
    assert [each["metadata"]["name"] for each in left] == ["c"]


async def test_addresses_and_node_ports_are_given_out_once(http, space):
    ports = [{"port": 80}]
    services = []
    for name in ("a", "b", "c"):
        body = {"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": ports}}
        services.append((await http("POST", core(space, "services"), body)).json["spec"])
    addresses = {each["clusterIP"] for each in services}
    assert len(addresses) == 3
    assert all(ipaddress.ip_address(each) in ipaddress.ip_network("10.96.0.0/12") for each in addresses)
    numbers = {each["ports"][0]["nodePort"] for each in services}
    assert len(numbers) == 3 and all(30000 <= number < 32768 for number in numbers)
    taken = {"metadata": {"name": "d"}, "spec": {"clusterIP": services[0]["clusterIP"], "ports": ports}}
    answer = await http("POST", core(space, "services"), taken)
    assert answer.status == 422 and "already allocated" in answer.json["message"]
    taken = {"metadata": {"name": "d"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": min(numbers)}]}}
    answer = await http("POST", core(space, "services"), taken)
    assert answer.status == 422 and "already allocated" in answer.json["message"]
    await http("DELETE", core(space, "services/a"))
    for name in ("e", "f"):
        await asyncio.sleep(0.05)
        body = {"metadata": {"name": name}, "spec": {"clusterIP": services[0]["clusterIP"], "ports": ports}}
        answer = await http("POST", core(space, "services"), body)
        if answer.status == 201:
            break
    assert answer.status == 201, answer.text


async def test_a_dry_run_gives_nothing_away(http, space):
    body = {"metadata": {"name": "dry"}, "spec": {"ports": [{"port": 80}]}}
    answer = await http("POST", core(space, "services?dryRun=All"), body)
    assert answer.status == 201 and answer.json["metadata"]["uid"]
    assert (await http("GET", core(space, "services/dry"))).status == 404


async def test_tokens_of_service_accounts(http, space):
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await http("POST", core(space, "serviceaccounts/default/token"), request)).json["status"]["token"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    found = (await http("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)).json["status"]
    assert found["authenticated"] is True
    assert found["user"]["username"] == f"system:serviceaccount:{space}:default"
    assert {"system:serviceaccounts", f"system:serviceaccounts:{space}"} <= set(found["user"]["groups"])
    await http("DELETE", core(space, "serviceaccounts/default"))
    for _ in range(100):  # a genuine server keeps what it saw for some seconds
        found = (await http("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)).json["status"]
        if not found.get("authenticated"):
            break
        await asyncio.sleep(0.2)
    assert not found.get("authenticated")
