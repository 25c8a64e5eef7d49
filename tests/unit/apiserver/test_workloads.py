"""WorkloadEndpoints over HTTP: got, listed and watched as any kind, and never written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podwire.apiserver import workloads
from podwire.apiserver.store import Store
from podwire.model.gvr import PODS

BASE = "/apis/projectcalico.org/v3"
IN_DEFAULT = f"{BASE}/namespaces/default/workloadendpoints"
POD = "/api/v1/namespaces/default/pods"
NAME = "n--1-k8s-web-eth0"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE = "application/merge-patch+json"


async def make(http: Any, name: str, **spec: Any) -> None:
    body = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}
    answer = await http("POST", POD, body)
    assert answer.status == 201, answer.text


async def give(http: Any, name: str, address: str) -> None:
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    answer = await http("PATCH", f"{POD}/{name}/status", status, MERGE)
    assert answer.status == 200, answer.text


async def test_reading(http: Any) -> None:
    await make(http, "web", nodeName="n-1")
    await make(http, "waiting")
    await make(http, "host", nodeName="n-1", hostNetwork=True)
    await give(http, "web", "10.0.0.1")
    listed = (await http("GET", f"{BASE}/workloadendpoints")).json
    assert [(each["metadata"]["name"], each["spec"]["ipNetworks"]) for each in listed["items"]] == [
        (NAME, ["10.0.0.1/32"])
    ]
    assert listed["kind"] == "WorkloadEndpointList"
    one = (await http("GET", f"{IN_DEFAULT}/{NAME}")).json
    assert one == listed["items"][0] and one["spec"]["node"] == "n-1"
    table = (await http("GET", f"{IN_DEFAULT}?fieldSelector=spec.node%3Dn-1", Accept=TABLE)).json
    narrow = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
    assert narrow == ["Workload", "Node", "Networks", "Interface"]
    assert table["rows"][0]["cells"][:4] == [NAME, "web", "n-1", "10.0.0.1/32"]
    assert (await http("GET", f"{IN_DEFAULT}?labelSelector=projectcalico.org/namespace%3Dother")).json["items"] == []
    assert (await http("GET", f"{IN_DEFAULT}/absent")).status == 404


async def test_watching(http: Any) -> None:
    version = (await http("GET", IN_DEFAULT)).json["metadata"]["resourceVersion"]
    async with http.open("GET", f"{IN_DEFAULT}?watch=1&resourceVersion={version}&timeoutSeconds=20") as answer:
        await make(http, "web", nodeName="n-1")
        await give(http, "web", "10.0.0.1")
        await http("PATCH", f"{POD}/web/status", {"status": {"message": "concerns no endpoint"}}, MERGE)
        await http("DELETE", f"{POD}/web", {"gracePeriodSeconds": 0})
        events = [json.loads(await answer.content.readline()) for _ in range(3)]
    told = [(event["type"], event["object"]["spec"].get("ipNetworks")) for event in events]
    assert told == [("ADDED", None), ("MODIFIED", ["10.0.0.1/32"]), ("DELETED", ["10.0.0.1/32"])]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions)) and versions[0] > int(version)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", IN_DEFAULT, "application/json"),
        ("PUT", f"{IN_DEFAULT}/{NAME}", "application/json"),
        ("PATCH", f"{IN_DEFAULT}/{NAME}", MERGE),
        ("DELETE", f"{IN_DEFAULT}/{NAME}", "application/json"),
        ("DELETE", IN_DEFAULT, "application/json"),
    ],
)
async def test_writing_is_refused_with_the_way_out(http: Any, method: str, path: str, kind: str) -> None:
    await make(http, "web", nodeName="n-1")
    answer = await http(method, path, {"metadata": {"name": NAME}, "spec": {}}, kind)
    assert (answer.status, answer.json["reason"]) == (405, "MethodNotAllowed")
    assert "change or delete the Pod" in answer.json["message"]


async def test_discovery_and_documents(http: Any) -> None:
    kinds = (await http("GET", BASE)).json["resources"]
    wep = next(each for each in kinds if each["name"] == "workloadendpoints")
    assert (wep["verbs"], wep["shortNames"], wep["namespaced"]) == (["get", "list", "watch"], ["wep"], True)
    document = (await http("GET", f"/openapi/v3{BASE}")).json
    assert list(document["paths"][f"{BASE}/workloadendpoints"]) == ["get"]


async def test_they_are_there_again_after_a_restart(tmp_path: Any) -> None:
    store = Store(tmp_path / "db")
    store.start()
    pods = {
        name: {"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node}}
        for name, node in (("b", "n2"), ("a", "n1"), ("c", ""))
    }
    for name, pod in pods.items():
        await store.put(PODS.plural, ("default", name), pod)
    store.close()
    again = Store(tmp_path / "db")
    workloads.follow(again)
    found = again.collection(workloads.RESOURCE.storage)
    assert found.keys == sorted(found.objects) == [("default", "n1-k8s-a-eth0"), ("default", "n2-k8s-b-eth0")]
    again.close()
