"""What FROM and TO mean, what the answer says, and assertions about it."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from scenes import policy, scene

from podwire.observe import junit
from podwire.observe.manifests import ManifestError, read
from podwire.observe.policycases import cases, run
from podwire.observe.policyquestions import Asked, QuestionError, Target, ask, parse_target
from podwire.observe.policyscene import Scene

FRONT_ONLY = policy(
    "api",
    "{podSelector: {matchLabels: {app: api}}, "
    "ingress: [{from: [{podSelector: {matchLabels: {app: front}}}], ports: [{port: http}]}]}",
)
LOCKED = policy("locked", "{podSelector: {matchLabels: {app: guest}}, policyTypes: [Egress]}", namespace="default")
ADMIN = policy(
    "admin",
    "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: sales}}}, ingress: ["
    "{name: skip-http, action: Pass, from: [{namespaces: {}}], "
    "protocols: [{tcp: {destinationPort: {number: 9090}}}]}, "
    "{name: no-more, action: Deny, from: [{namespaces: {}}]}]}",
    kind="ClusterNetworkPolicy",
    api="policy.networking.k8s.io/v1alpha2",
    namespace="",
)
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: web, port: 9090, protocol: TCP}]
endpoints: [{addresses: [10.244.2.2]}, {addresses: [10.244.1.3]}, {addresses: [10.244.9.9], conditions: {ready: false}}]
"""


def asked(*texts: str) -> Asked:
    return Asked.of(scene(*texts))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("default/web:80", Target("default/web", "80", "TCP")),
        ("default/web:dns/UDP", Target("default/web", "dns", "UDP")),
        ("svc/default/web:http", Target("svc/default/web", "http", "TCP")),
        ("node/n1:10250", Target("node/n1", "10250", "TCP")),
        ("10.0.0.1:53/udp", Target("10.0.0.1", "53", "UDP")),
        ("[fd00::1]:80", Target("fd00::1", "80", "TCP")),
        ("[fd00::1]/ICMP", Target("fd00::1", "", "ICMP")),
        ("default/web/ICMP", Target("default/web", "", "ICMP")),
        ("web.default.svc.cluster.local:80", Target("web.default.svc.cluster.local", "80", "TCP")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default/web", "say the port"),
        ("default/web:0", "from 1 to 65535"),
        ("default/web:65536", "from 1 to 65535"),
        ("default/web:80/FOO", "none of TCP, UDP, SCTP, ICMP"),
        ("default/web:80/ICMP", "has no ports"),
        ("", "TO:PORT"),
        (":80", "TO:PORT"),
        ("fd00::1:80", "TO:PORT"),
        ("default/web/UDP", "say the port"),
    ],
)
def test_what_is_no_target(text: str, said: str) -> None:
    with pytest.raises(QuestionError, match=said):
        parse_target(text)


@given(st.text(alphabet="ab1:/[].-ICMPTUDP ", max_size=24))
def test_any_question_is_answered_or_refused(text: str) -> None:
    try:
        found = ask(_SHOP, "shop/front", text)
    except QuestionError as error:
        assert str(error)
    else:
        assert found


_SHOP = asked()


ANSWERS = [
    # source, target, policies, allowed, egress rule, ingress rule
    ("shop/front", "shop/api:9090", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("shop/front", "shop/api:http", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("shop/front", "shop/api:9091", [FRONT_ONLY], False, "", " default"),
    ("default/guest", "shop/api:9090", [FRONT_ONLY], False, "", " default"),
    ("default/guest", "shop/front:1", [LOCKED], False, " default", ""),
    ("shop/front", "default/guest:1/UDP", [LOCKED], True, "", ""),
    ("shop/front", "svc/shop/api:80", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("shop/front", "svc/shop/api:web", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("shop/front", "api:80", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("default/guest", "api.shop:80", [FRONT_ONLY], False, "", " default"),
    ("default/guest", "api.shop.svc.cluster.local.:80", [FRONT_ONLY], False, "", " default"),
    ("default/guest", "10.96.0.7:80", [FRONT_ONLY], False, "", " default"),
    ("10.244.1.2", "10.244.2.2:9090", [FRONT_ONLY], True, "", "NetworkPolicy shop/api ingress[0]"),
    ("node/n1", "shop/api:9090", [FRONT_ONLY], False, "", " default"),
    ("node/n2", "shop/api:9090", [FRONT_ONLY], True, "", ""),  # the pod's own node
    ("172.18.0.3", "shop/api:9090", [FRONT_ONLY], True, "", ""),
    ("shop/exporter", "shop/api:9090", [FRONT_ONLY], False, "", " default"),  # host network of n1
    ("203.0.113.9", "shop/api:9090", [FRONT_ONLY], False, "", " default"),
    ("svc/shop/api", "default/guest:5", [], True, "", ""),
    ("shop/api", "shop/api:7", [FRONT_ONLY], True, "", ""),
    ("default/guest", "shop/api:9090", [ADMIN], True, "", ""),
    ("default/guest", "shop/api:80", [ADMIN], False, "", "ClusterNetworkPolicy admin no-more"),
    ("default/guest", "shop/api/ICMP", [ADMIN], False, "", "ClusterNetworkPolicy admin no-more"),
]


@pytest.mark.parametrize(("source", "target", "texts", "allowed", "egress", "ingress"), ANSWERS)
def test_answers(source: str, target: str, texts: list[str], allowed: bool, egress: str, ingress: str) -> None:
    (one,) = ask(asked(*texts), source, target)
    said = [f"{side.policy} {side.rule}".rstrip() for side in (one.egress, one.ingress)]
    assert (one.allowed, *said) == (allowed, egress, ingress)


def test_the_rule_has_its_line_and_the_tiers_are_told() -> None:
    (one,) = ask(asked(ADMIN, FRONT_ONLY), "shop/front", "shop/api:9090")
    assert one.ingress.where == "2.yaml:4"
    assert [(step.tier, step.rule, step.action) for step in one.ingress.tiers] == [
        ("kube-admin", "skip-http", "Pass"),
        ("default", "ingress[0]", "Allow"),
    ]


def test_backends_that_differ_are_told_apart() -> None:
    found = ask(asked(FRONT_ONLY, SLICE), "203.0.113.9", "svc/shop/api:80")
    assert [(one.destination, one.allowed, one.by) for one in found] == [
        ("shop/api", False, "svc/shop/api"),
        ("default/guest", True, "svc/shop/api"),
    ]


def test_families_are_asked_apart() -> None:
    world = asked(policy("four", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"))
    assert [one.allowed for one in ask(world, "203.0.113.9", "shop/front:80")] == [True]
    assert [one.allowed for one in ask(world, "2001:db8::1", "shop/front:80")] == [False]


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("shop/frnt", "shop/api:1", "there are shop/api, shop/exporter, shop/front"),
        ("shop/front", "nowhere:1", "no Service shop/nowhere"),
        ("shop/front", "guest:1", "did you mean the pod default/guest"),
        ("shop/front", "svc/shop/api:81", "its ports: 80/TCP"),
        ("shop/front", "svc/shop:80", "svc/NAMESPACE/NAME"),
        ("shop/front", "svc/a/b:80", "Services: shop/api"),
        ("shop/front", "shop/api:htp", "it names: http/TCP"),
        ("node/n9", "shop/api:1", "nodes: n1, n2"),
        ("shop/done", "shop/api:1", "no pod shop/done"),
        ("a b", "shop/api:1", "is nobody here"),
        ("fd00::7", "shop/api:1", "addresses of one family"),
    ],
)
def test_questions_about_nobody(source: str, target: str, said: str) -> None:
    with pytest.raises(QuestionError) as caught:
        ask(asked(), source, target)
    assert said in str(caught.value)


# -- assertions -------------------------------------------------------------------------------------------------------

TESTS = """
tests:
- name: the front reaches the API
  from: shop/front
  to: svc/shop/api
  port: 80
  expect: allow
  by: shop/api
- from: [default/guest, 203.0.113.9]
  to: shop/api
  ports: [9090, 53/UDP]
  expect: deny
  by: NetworkPolicy shop/api
- {from: shop/front, to: shop/api, port: 9091, expect: allow}
- {from: shop/front, to: shop/api, port: 9090, expect: allow, by: other}
- {from: shop/front, to: default/guest, protocol: ICMP, expect: allow, by: none}
- {from: shop/gone, to: shop/api, port: 1, expect: deny}
- {from: shop/front, to: fd00::9, port: 1, expect: allow}
"""


def test_assertions() -> None:
    (document,) = read(TESTS, "t.yaml", beside="tests")
    results = run(asked(FRONT_ONLY), cases(document))
    assert [one.passed for one in results] == [True, *[True] * 4, False, False, True, False, True]
    wrong = [one for one in results if not one.passed]
    assert [one.where for one in wrong] == ["t.yaml:14", "t.yaml:15", "t.yaml:17"]
    assert "is denied: ingress: governed by NetworkPolicy shop/api; no rule matches" in wrong[0].problem
    assert wrong[1].problem.endswith("is allowed, but that is said by NetworkPolicy shop/api, not by other")
    assert wrong[2].error and "there is no pod shop/gone" in wrong[2].problem

    suite = ElementTree.fromstring(junit.document(results, seconds=0.5).encode()).find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("10", "2", "1")
    assert [case.get("line") for case in suite if len(case)] == ["14", "15", "17"]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("tests: 3", 1, "tests is no list"),
        ("tests:\n- 3", 2, "is no mapping"),
        ("tests:\n- {from: a/b, to: c/d}", 2, "has no `expect`"),
        ("tests:\n- from: a/b\n  to: c/d\n  expct: allow", 4, "`expct` is no key"),
        ("tests:\n- from: a/b\n  to: c/d\n  expect: maybe", 4, "'maybe'"),
        ("tests:\n- from: a/b\n  to: c/d\n  port: 1\n  ports: [1]\n  expect: deny", 5, "port and ports"),
        ("x: 1\ntests: []", 1, "means nothing beside"),
    ],
)
def test_what_is_no_test(text: str, line: int, said: str) -> None:
    (document,) = read(text, "t.yaml", beside="tests")
    with pytest.raises(ManifestError) as caught:
        cases(document)
    assert (caught.value.line, said in caught.value.problem) == (line, True), caught.value


def test_a_report_holds_any_text() -> None:
    document = read('tests: [{name: "a\\x01<&\\x1b", from: x, to: y, expect: deny}]', "t.yaml", beside="tests")
    (result,) = run(Asked.of(Scene(())), cases(document[0]))
    assert ElementTree.fromstring(junit.document([result]).encode()).find("testsuite/testcase/error") is not None
