"""What clients read before they do anything: versions, groups, resources, schemas, health."""

from __future__ import annotations

import pytest

from podwire.apiserver.custom import RESOURCE as CRD_RESOURCE
from podwire.apiserver.kinds import BUILT_IN

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

SERVED = [*BUILT_IN, CRD_RESOURCE]


async def test_version(http):
    found = (await http("GET", "/version")).json
    assert found["major"] == "1" and found["minor"] == "36"
    assert found["gitVersion"].startswith("v1.36.")
    assert found["platform"] == "linux/amd64" or found["platform"].startswith("linux/")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/ping", "/livez/ping"])
async def test_health(http, path):
    answer = await http("GET", path)
    assert (answer.status, answer.text) == (200, "ok")


async def test_health_in_detail(http):
    answer = await http("GET", "/readyz?verbose")
    assert answer.text.startswith("[+]ping ok\n") and answer.text.endswith("readyz check passed\n")


async def aggregated(http):
    """resource path -> what aggregated discovery says of it."""
    found = {}
    for root in ("/api", "/apis"):
        answer = await http("GET", root, Accept=f"{AGGREGATED},application/json")
        assert answer.headers["Content-Type"] == AGGREGATED
        assert answer.json["kind"] == "APIGroupDiscoveryList"
        assert answer.json["apiVersion"] == "apidiscovery.k8s.io/v2"
        for group in answer.json["items"]:
            for version in group["versions"]:
                assert version["freshness"] == "Current"
                for each in version.get("resources", []):
                    found[group["metadata"].get("name", ""), version["version"], each["resource"]] = each
    return found


async def test_aggregated_discovery(http):
    found = await aggregated(http)
    for resource in SERVED:
        gvr = resource.gvr
        said = found[gvr.group, gvr.version, gvr.plural]
        assert said["responseKind"]["kind"] == gvr.kind
        assert said["scope"] == ("Namespaced" if gvr.namespaced else "Cluster")
        assert said["singularResource"] == resource.singular_name
        assert sorted(said["verbs"]) == sorted(resource.verbs), gvr
        assert said.get("shortNames", []) == list(resource.short_names)
        assert said.get("categories", []) == list(resource.categories)
        below = {each["subresource"]: each for each in said.get("subresources", [])}
        for each in resource.all_subresources():
            assert below[each.name]["responseKind"]["kind"] == each.kind
            assert sorted(below[each.name]["verbs"]) == sorted(each.verbs)


async def test_old_discovery(http):
    assert (await http("GET", "/api")).json["versions"] == ["v1"]
    groups = {each["name"]: each for each in (await http("GET", "/apis")).json["groups"]}
    for resource in SERVED:
        gvr = resource.gvr
        root = f"/apis/{gvr.api_version}" if gvr.group else "/api/v1"
        if gvr.group:
            listed = {"groupVersion": gvr.api_version, "version": gvr.version}
            assert listed in groups[gvr.group]["versions"]
            one = (await http("GET", f"/apis/{gvr.group}")).json
            assert one["kind"] == "APIGroup" and one["preferredVersion"]["version"]
        document = (await http("GET", root)).json
        assert (document["kind"], document["groupVersion"]) == ("APIResourceList", gvr.api_version)
        found = {each["name"]: each for each in document["resources"]}
        said = found[gvr.plural]
        assert (said["kind"], said["namespaced"]) == (gvr.kind, gvr.namespaced)
        assert said["singularName"] == resource.singular_name
        assert sorted(said["verbs"]) == sorted(resource.verbs)
        for each in resource.all_subresources():
            below = found[f"{gvr.plural}/{each.name}"]
            assert below["kind"] == each.kind
            if each.group and each.group != gvr.group:
                assert (below["group"], below["version"]) == (each.group, each.version)


async def test_unknown_paths(http):
    for path in ("/apis/none.example", "/apis/none.example/v1", "/api/v9", "/nothing", "/apis/apps/v9"):
        assert (await http("GET", path)).status == 404


async def test_the_index_of_openapi_v3(http):
    paths = (await http("GET", "/openapi/v3")).json["paths"]
    for resource in SERVED:
        gvr = resource.gvr
        key = f"apis/{gvr.api_version}" if gvr.group else "api/v1"
        assert paths[key]["serverRelativeURL"].startswith(f"/openapi/v3/{key}?hash=")


@pytest.mark.parametrize(
    "group", ["api/v1", "apis/apps/v1", "apis/networking.k8s.io/v1", "apis/rbac.authorization.k8s.io/v1"]
)
async def test_documents_of_openapi_v3(http, group):
    document = (await http("GET", f"/openapi/v3/{group}")).json
    assert document["openapi"].startswith("3.0")
    schemas, known = document["components"]["schemas"], {}
    for schema in schemas.values():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            known[kind["group"], kind["version"], kind["kind"]] = schema
    for resource in SERVED:
        gvr = resource.gvr
        if (f"apis/{gvr.api_version}" if gvr.group else "api/v1") != group:
            continue
        if resource.verbs != ("create",):
            schema = known[gvr.group, gvr.version, gvr.kind]
            assert {"apiVersion", "kind", "metadata"} <= schema["properties"].keys()
        root = f"/{group}/namespaces/{{namespace}}" if gvr.namespaced else f"/{group}"
        path = document["paths"][f"{root}/{gvr.plural}/{{name}}"]
        names = {each["name"] for each in path["patch"]["parameters"]}
        # kubectl looks for this one before it trusts the server's validation.
        assert {"fieldValidation", "fieldManager", "dryRun", "force"} <= names
        assert path["patch"]["x-kubernetes-group-version-kind"]["kind"] == gvr.kind


async def test_lists_say_how_they_merge(http):
    document = (await http("GET", "/openapi/v3/api/v1")).json["components"]["schemas"]
    containers = document["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-list-type"] == "map"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"


async def test_openapi_v2(http):
    protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    async with http.open("GET", "/openapi/v2", Accept=protobuf) as answer:
        assert answer.status == 200
        assert "proto-openapi" in answer.headers["Content-Type"]
        assert len(await answer.read()) > 10000


async def test_methods_are_refused(http):
    for method, path in (("POST", "/version"), ("PUT", "/api/v1/namespaces"), ("DELETE", "/api/v1/nodes/x/status")):
        assert (await http(method, path, {})).status in (403, 404, 405)
