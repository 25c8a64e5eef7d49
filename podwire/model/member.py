"""Whom selectors of policies find: pods, network sets and nodes, by their effective labels. Pure.

A pod's effective labels are its own, three that say what it is, and under prefixes those of its namespace and of its
service account. Nobody gives himself the labels of a namespace: own labels under the prefixes count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from podwire.model.address import AddressError, parse_ip
from podwire.model.meta import Meta
from podwire.model.networkset import NetworkSet
from podwire.model.node import Node
from podwire.model.pod import Pod
from podwire.model.terms import NAMESPACE, OF_ACCOUNT, OF_NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT

NAME = "projectcalico.org/name"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
Labels = Mapping[str, str]


class Namespace(msgspec.Struct, frozen=True):
    metadata: Meta


class ServiceAccount(msgspec.Struct, frozen=True):
    metadata: Meta


def effective_labels(pod: Pod, namespace_labels: Labels, service_account_labels: Labels) -> dict[str, str]:
    """What policies know a pod by."""
    return pod_labels(
        pod.metadata.labels,
        pod.metadata.namespace,
        pod.spec.serviceAccountName,
        namespace_labels,
        service_account_labels,
    )


def pod_labels(
    own: Labels, namespace: str, account: str, namespace_labels: Labels, account_labels: Labels
) -> dict[str, str]:
    """The same from its parts, of which many pods have the same ones. No `account`: the namespace's default one."""
    account = account or "default"
    return {
        **_own(own),
        ORCHESTRATOR: "k8s",
        SERVICE_ACCOUNT: account,
        **of_namespace(namespace, namespace_labels),
        **{OF_ACCOUNT + key: value for key, value in account_labels.items()},
        OF_ACCOUNT + NAME: account,
    }


def of_namespace(namespace: str, labels: Labels) -> dict[str, str]:
    """What its namespace gives everybody in it."""
    return {
        NAMESPACE: namespace,
        OF_NAMESPACE + NAMESPACE_NAME: namespace,
        **{OF_NAMESPACE + key: value for key, value in labels.items()},
        OF_NAMESPACE + NAME: namespace,
    }


def _own(labels: Labels) -> Labels:
    if any(key.startswith((OF_NAMESPACE, OF_ACCOUNT)) for key in labels):
        return {key: value for key, value in labels.items() if not key.startswith((OF_NAMESPACE, OF_ACCOUNT))}
    return labels


def set_labels(found: NetworkSet, namespace_labels: Labels) -> dict[str, str]:
    """What policies know a network set by; `namespace_labels` are of no matter for a set of the whole cluster."""
    own = {key: value for key, value in _own(found.labels).items() if key not in (ORCHESTRATOR, SERVICE_ACCOUNT)}
    return {**own, **of_namespace(found.namespace, namespace_labels)} if found.namespace else own


def node_addresses(node: Node) -> tuple[str, ...]:
    """Every address in a node's status, of whatever type; names are none."""
    return tuple(dict.fromkeys(each.address for each in node.status.addresses if _is_address(each.address)))


def _is_address(text: str) -> bool:
    try:
        parse_ip(text)
    except AddressError:
        return False
    return True
