"""Policies before the lab's API server: what it takes, what it refuses and where, and what it writes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire.apiserver.errors import qualified
from podwire.ipam.crds import crds
from podwire.model import policycrds
from podwire.model.api import ApiError
from podwire.model.gvr import (
    CALICONETWORKPOLICIES,
    CRDS,
    GLOBALNETWORKPOLICIES,
    GVR,
    PROFILES,
    STAGEDKUBERNETESNETWORKPOLICIES,
    STAGEDNETWORKPOLICIES,
    TIERS,
)
from podwire.model.policykinds import BY_API
from tests.policies.refused import REFUSED, Refused

Object = dict[str, Any]
ACCEPTED = list(yaml.safe_load_all((Path(__file__).parents[2] / "policies" / "accepted.yaml").read_text()))
BASE = "/apis/projectcalico.org/v3"


@pytest.fixture
async def api(running: Any) -> Any:
    for each in policycrds.crds():
        await running.server.client.create(CRDS, each)
    for tier in policycrds.first_tiers():
        await running.server.client.create(TIERS, tier)
    return running.server.client


def kind_of(obj: Object) -> GVR:
    return BY_API[obj["apiVersion"], obj["kind"]].gvr


def policy(name: str, spec: Object, kind: str = "NetworkPolicy") -> Object:
    head = {"name": name} if kind.startswith(("Global", "Tier", "Profile")) else {"name": name, "namespace": "default"}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": head, "spec": spec}


async def test_what_documentation_shows_is_accepted(api: Any) -> None:
    for obj in ACCEPTED:
        made = await api.create(kind_of(obj), obj, "default")
        assert made["metadata"]["generation"] == 1


async def test_applied_again_nothing_changes(api: Any) -> None:
    """Also not what the server wrote back, which belongs to nobody."""
    for obj in ACCEPTED:
        where = (kind_of(obj), obj["metadata"]["name"], obj, "default")
        first = await api.patch(*where, kind="apply", manager="t")
        again = await api.patch(*where, kind="apply", manager="t")
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], obj["metadata"]["name"]
        assert all(again["spec"][key] == value for key, value in obj["spec"].items())


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_mistakes_are_refused_with_the_field(api: Any, case: Refused) -> None:
    with pytest.raises(ApiError) as caught:
        if case.object["kind"] == "Tier" and case.by_rule:  # it is there
            await api.patch(TIERS, case.object["metadata"]["name"], {"spec": case.object["spec"]})
        else:
            await api.create(kind_of(case.object), case.object)
    assert caught.value.status == 422, caught.value.message
    assert case.words in caught.value.message
    fields = [cause["field"] for cause in caught.value.details["causes"]]
    assert any(field.startswith(case.path) for field in fields), fields


async def test_types_and_the_tier_are_written_back(api: Any) -> None:
    await api.create(TIERS, policy("security", {"order": 5}, "Tier"))
    for spec, types in (
        ({}, ["Ingress"]),
        ({"egress": [{"action": "Allow"}]}, ["Egress"]),
        ({"egress": [{"action": "Allow"}], "ingress": [{"action": "Deny"}]}, ["Ingress", "Egress"]),
        ({"types": ["Egress"]}, ["Egress"]),
    ):
        made = await api.create(CALICONETWORKPOLICIES, policy("p", spec))
        assert made["spec"]["types"] == types and made["spec"]["tier"] == "default"
        assert made["metadata"]["labels"] == {"projectcalico.org/tier": "default"}
        await api.delete(CALICONETWORKPOLICIES, "p", "default")
    made = await api.create(GLOBALNETWORKPOLICIES, policy("p", {"tier": "security"}, "GlobalNetworkPolicy"))
    assert made["metadata"]["labels"] == {"projectcalico.org/tier": "security"}
    made = await api.patch(GLOBALNETWORKPOLICIES, "p", {"spec": {"tier": "kube-admin"}})
    assert made["metadata"]["labels"] == {"projectcalico.org/tier": "kube-admin"}
    staged = await api.create(STAGEDNETWORKPOLICIES, policy("p", {"stagedAction": "Delete"}, "StagedNetworkPolicy"))
    assert "types" not in staged["spec"]
    kind = "StagedKubernetesNetworkPolicy"
    staged = await api.create(STAGEDKUBERNETESNETWORKPOLICIES, policy("p", {"podSelector": {}, "egress": [{}]}, kind))
    assert staged["spec"]["policyTypes"] == ["Ingress", "Egress"]


async def test_tiers_have_defaults_and_go_only_when_empty(api: Any) -> None:
    made = await api.create(TIERS, policy("mine", {}, "Tier"))
    assert made["spec"] == {"order": 1_000_000, "defaultAction": "Deny"}
    await api.create(CALICONETWORKPOLICIES, policy("p", {"tier": "mine"}))
    with pytest.raises(ApiError, match="policies are in this tier: NetworkPolicy default/p") as caught:
        await api.delete(TIERS, "mine")
    assert caught.value.status == 403
    await api.delete(CALICONETWORKPOLICIES, "p", "default")
    await api.delete(TIERS, "mine")
    for name in ("kube-admin", "default", "kube-baseline"):
        with pytest.raises(ApiError, match="this tier is always there"):
            await api.delete(TIERS, name)


async def test_with_their_kind_all_tiers_go(api: Any) -> None:
    await api.delete(CRDS, f"{TIERS.plural}.{TIERS.group}")
    async for item in api.watch(CRDS):
        key = getattr(item, "key", ("", ""))
        if key[1] == f"{TIERS.plural}.{TIERS.group}" and item.object is None:
            return


async def test_what_is_not_enforced_is_accepted_with_a_warning(api: Any, running: Any) -> None:
    spec = {"doNotTrack": True, "applyOnForward": True, "ingress": [{"action": "Allow"}]}
    answer = await running.http("POST", f"{BASE}/globalnetworkpolicies", policy("p", spec, "GlobalNetworkPolicy"))
    assert answer.status == 201
    said = answer.headers.getall("Warning")
    assert [each for each in said if "spec.doNotTrack: not enforced" in each], said
    answer = await running.http("PUT", f"{BASE}/globalnetworkpolicies/p", answer.json)
    assert "Warning" not in answer.headers, "said once, when it changes"
    answer = await running.http("POST", f"{BASE}/profiles", policy("p", {}, "Profile"))
    assert answer.status == 201 and "not enforced" in answer.headers["Warning"]


async def test_domain_names_are_accepted_with_a_warning(api: Any, running: Any) -> None:
    rule = {"action": "Accept", "to": [{"domainNames": ["*.example.org"]}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]}
    obj = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}}
    path = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
    answer = await running.http("POST", path, {**obj, "spec": spec})
    assert answer.status == 201 and "spec.egress[0].to[0].domainNames" in answer.headers["Warning"]


async def test_no_warnings_for_rules_that_are_held_to(running: Any) -> None:
    for each in policycrds.crds():
        answer = await running.http("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", each)
        assert answer.status == 201
        unchecked = each["spec"]["names"]["kind"] == "Profile"
        assert ("Warning" in answer.headers) == unchecked, answer.headers


async def test_a_stored_mistake_may_stay_while_other_things_change(api: Any, running: Any) -> None:
    await api.create(CALICONETWORKPOLICIES, policy("p", {"selector": "all()"}))
    store, key = running.server.rest.store, ("default", "p")
    wrong = store.collection(qualified(CALICONETWORKPOLICIES)).latest(key).copy()
    wrong["spec"] |= {"selector": "x", "tier": "gone"}
    await store.put(qualified(CALICONETWORKPOLICIES), key, wrong)
    changed = await api.patch(CALICONETWORKPOLICIES, "p", {"metadata": {"annotations": {"a/b": "c"}}}, "default")
    assert changed["metadata"]["annotations"] == {"a/b": "c"}
    with pytest.raises(ApiError, match=r"spec\.selector"):
        await api.patch(CALICONETWORKPOLICIES, "p", {"spec": {"selector": "y"}}, "default")


def test_kinds_of_ipam_and_of_policies_have_different_names() -> None:
    names = [each["metadata"]["name"] for each in (*crds(), *policycrds.crds())]
    assert len(set(names)) == len(names)
    assert PROFILES.plural in {name.partition(".")[0] for name in names}
