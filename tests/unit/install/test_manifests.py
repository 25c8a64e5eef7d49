"""What is installed, as tables: rights, powers, order, and choices that are refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest
import yaml

from podwire.agent import config
from podwire.install import confinement, daemon, manifests, rbac
from podwire.install.options import AGENT, CONTROLLER, NODE_GROUP, OptionError, Options, check, chosen

Object = dict[str, Any]

VARIANTS = {
    "default": Options(),
    "own namespace": Options(namespace="podwire-system"),
    "classic": Options(classic=True),
    "everything chosen": Options(
        "net",
        "registry.test:5000/podwire@sha256:" + "0" * 64,
        "Never",
        "10.8.0.0/14",
        28,
        "Never",
        1400,
        "https://a:6443",
    ),
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def of(kind: str, options: Options) -> list[Object]:
    return [each for each in manifests.everything(options) if each["kind"] == kind]


def pod(options: Options) -> Object:
    (daemons,) = of("DaemonSet", options)
    found: Object = daemons["spec"]["template"]["spec"]
    return found


@variants
def test_text_is_the_objects(options: Options) -> None:
    objects = manifests.everything(options)
    assert list(yaml.safe_load_all(manifests.text(objects))) == objects
    assert "&id" not in manifests.text(objects)


@variants
def test_kinds_come_first_and_nothing_comes_twice(options: Options) -> None:
    kinds = [each["kind"] for each in manifests.everything(options)]
    definitions = kinds.count("CustomResourceDefinition")
    assert kinds[:definitions] == ["CustomResourceDefinition"] * definitions
    groups = {each["spec"]["group"] for each in of("CustomResourceDefinition", options)}
    assert ("projectcalico.org" in groups) != options.classic and "policy.networking.k8s.io" in groups
    assert (
        kinds.index("ValidatingAdmissionPolicyBinding") < kinds.index("ClusterRoleBinding") < kinds.index("DaemonSet")
    )
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests.everything(options)]
    assert len(set(names)) == len(names)


@variants
def test_namespaced_objects_are_in_the_namespace(options: Options) -> None:
    for each in manifests.everything(options):
        if each["kind"] in ("ServiceAccount", "ConfigMap", "DaemonSet", "Deployment", "Role", "RoleBinding"):
            assert each["metadata"]["namespace"] == options.namespace
        else:
            assert "namespace" not in each["metadata"]
    made = of("Namespace", options)
    assert [each["metadata"]["name"] for each in made] == [options.namespace] * (options.namespace != "kube-system")


@variants
def test_no_right_is_a_wildcard(options: Options) -> None:
    for rule in [rule for role in (*of("ClusterRole", options), *of("Role", options)) for rule in role["rules"]]:
        for part in ("apiGroups", "resources", "verbs"):
            assert rule[part] and "*" not in "".join(rule[part])
        assert not set(rule["verbs"]) & {"deletecollection", "impersonate", "bind", "escalate"}
        assert not set(rule["resources"]) & {"secrets", "pods/exec", "nodes/proxy", "serviceaccounts/token"}


@variants
def test_agents_write_nothing_that_is_not_confined(options: Options) -> None:
    (role, _), (policy,) = of("ClusterRole", options), of("ValidatingAdmissionPolicy", options)
    confined = {
        (rule["apiGroups"][0], rule["resources"][0]) for rule in policy["spec"]["matchConstraints"]["resourceRules"]
    }
    written = {
        (rule["apiGroups"][0], resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        if set(rule["verbs"]) - {"get", "list", "watch"}
    }
    assert written == confined


@variants
def test_every_identity_with_the_role_is_confined(options: Options) -> None:
    (binding, _), (policy,) = of("ClusterRoleBinding", options), of("ValidatingAdmissionPolicy", options)
    (condition,) = policy["spec"]["matchConditions"]
    for subject in binding["subjects"]:
        if subject["kind"] == "Group":
            assert subject["name"] == NODE_GROUP
            assert "startsWith('podwire:agent:')" in condition["expression"]
        else:
            assert f"system:serviceaccount:{subject['namespace']}:{subject['name']}'" in condition["expression"]
    assert of("ValidatingAdmissionPolicyBinding", options)[0]["spec"]["validationActions"] == ["Deny"]
    assert policy["spec"]["failurePolicy"] == "Fail"


def test_texts_of_refusals_are_single_quoted_safely() -> None:
    for each in confinement.CONFINEMENTS:
        assert "'" not in each.says and "\\" not in each.says


@variants
def test_the_agent_has_no_more_power_than_it_names(options: Options) -> None:
    (container,) = pod(options)["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["privileged"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    why = of("DaemonSet", options)[0]["spec"]["template"]["metadata"]["annotations"]["podwire/capabilities"]
    for name in context["capabilities"]["add"]:
        assert f"{name}: " in why
    assert container["image"] == options.image and not container["image"].endswith(":latest")
    assert not pod(options).get("hostPID") and not pod(options).get("hostIPC")
    assert not any("ports" in each for each in pod(options)["containers"])


@variants
def test_the_controller_has_no_power_on_its_node(options: Options) -> None:
    (found,) = of("Deployment", options)
    spec = found["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "hostNetwork" not in spec and not any("hostPath" in volume for volume in spec["volumes"])
    assert container["image"] == options.image


@variants
def test_every_mount_has_its_volume(options: Options) -> None:
    (container,) = pod(options)["containers"]
    volumes = {volume["name"] for volume in pod(options)["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    paths = [volume["hostPath"]["path"] for volume in pod(options)["volumes"] if "hostPath" in volume]
    assert not set(paths) & {"/", "/etc", "/var", "/run", "/proc", "/sys", "/opt", "/var/run", "/root"}


@variants
def test_the_agent_stays_on_every_node(options: Options) -> None:
    spec = pod(options)
    assert spec["hostNetwork"] and spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        asked = spec["containers"][0][probe]["httpGet"]
        assert (asked["host"], asked["port"]) == ("127.0.0.1", daemon.HEALTH_PORT)


@variants
def test_the_agent_understands_its_settings(options: Options, tmp_path: Any) -> None:
    (settings,) = of("ConfigMap", options)
    path = tmp_path / "agent.toml"
    path.write_text(settings["data"]["agent.toml"])
    found = config.load(path, {"PODWIRE_NODE_NAME": "n1"})
    assert (found.mtu, found.api_server, found.health_port) == (options.mtu, options.api_server, daemon.HEALTH_PORT)
    assert found.policy_enforce == options.policy_enforce
    assert found.set_aside and not found.cluster_duties and found.lease_namespace == options.namespace
    assert str(found.proc_sys) == daemon.PROC_SYS
    inside = {mount["mountPath"] for mount in pod(options)["containers"][0]["volumeMounts"]}
    for place in (found.conf_dir, found.bin_dir, found.state_dir, found.socket.parent, found.proc_sys / "net"):
        assert str(place) in inside
    assert tomllib.loads(path.read_text())


def test_settings_that_change_bring_new_pods() -> None:
    def mark(options: Options) -> str:
        (found,) = of("DaemonSet", options)
        return str(found["spec"]["template"]["metadata"]["annotations"]["podwire/settings"])

    assert mark(Options()) == mark(Options()) != mark(Options(mtu=1400))


def test_the_selector_of_a_daemon_set_does_not_change_with_the_version() -> None:
    for found, name in ((of("DaemonSet", Options())[0], AGENT), (of("Deployment", Options())[0], CONTROLLER)):
        selector = found["spec"]["selector"]["matchLabels"]
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
        assert selector.items() <= found["spec"]["template"]["metadata"]["labels"].items()
        assert found["metadata"]["name"] == name


def test_names_of_grants_reach_the_role() -> None:
    (rule,) = [rule for rule in rbac.rules(rbac.CONTROLLER_GRANTS, classic=False) if "resourceNames" in rule]
    assert rule["resourceNames"] == ["ipamblocks.projectcalico.org", "ipamblocks.crd.projectcalico.org"]
    groups = {rule["apiGroups"][0] for rule in rbac.rules(rbac.GRANTS, classic=True)}
    assert "crd.projectcalico.org" in groups and "projectcalico.org" not in groups


REFUSED = {
    "namespace of capitals": ({"namespace": "Kube"}, "namespace: 'Kube'"),
    "image without a tag": ({"image": "podwire"}, "image: 'podwire' is not pinned"),
    "image latest": ({"image": "a/podwire:latest"}, "not pinned"),
    "registry's port is no tag": ({"image": "registry.test:5000/podwire:latest"}, "not pinned"),
    "no network": ({"pod_cidr": "10.244.0.1/16"}, "pod-cidr: 10.244.0.1/16 has host bits set"),
    "network of the other family": ({"pod_cidr": "fd00::/48"}, "pod-cidr"),
    "block wider than the pool": ({"pod_cidr": "10.0.0.0/28"}, "block-size: 26"),
    "block of one": ({"block_size": 33}, "block-size: 33"),
    "mtu of nothing": ({"mtu": 100}, "mtu: 100"),
    "encapsulation unknown": ({"encapsulation": "GRE"}, "encapsulation: 'GRE' is not one of Always"),
    "pull policy unknown": ({"pull_policy": "Sometimes"}, "pull-policy"),
    "policy neither on nor off": ({"policy_enforce": "false"}, "policy-enforce"),
    "server without TLS": ({"api_server": "http://10.0.0.1:6443"}, "api-server"),
    "server that ends the text": ({"api_server": 'https://a"\nshim = "/tmp/x'}, "api-server"),
}


@pytest.mark.parametrize(("choice", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words.replace("(", r"\(")):
        check(replace(Options(), **choice))


def test_choices_as_text() -> None:
    found = chosen({"mtu": "1400", "pod-cidr": "10.1.0.0/16", "block_size": "27", "classic": "true"})
    assert found == Options(mtu=1400, pod_cidr="10.1.0.0/16", block_size=27, classic=True)
    for name, value, words in (
        ("mtu", "big", "mtu: 'big' is not a number"),
        ("classic", "perhaps", "neither true nor false"),
        ("colour", "red", "colour: no such option; there are namespace, image"),
    ):
        with pytest.raises(OptionError, match=words):
            chosen({name: value})
