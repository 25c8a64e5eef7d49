"""Slim records: of metadata only what is read, and equal texts once."""

from __future__ import annotations

import json

import msgspec

from podwire.model.pod import Pod

TOLD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "web",
        "namespace": "team-of-one",
        "labels": {"app.kubernetes.io/name": "a-long-name-of-an-app"},
        "annotations": {
            "cni.projectcalico.org/podIP": "10.244.1.5/32",
            "projectcalico.org/IPv4Address": "172.18.0.2/16",
            "kubernetes.io/ingress-bandwidth": "1M",
            "kubectl.kubernetes.io/last-applied-configuration": "x" * 1000,
            "notprojectcalico.org/name": "x",
            "noslash": "x",
        },
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.5"}]},
}


def test_annotations_that_nobody_reads_are_not_kept() -> None:
    for pod in (msgspec.json.decode(json.dumps(TOLD), type=Pod), msgspec.convert(TOLD, Pod)):
        assert set(pod.metadata.annotations) == {
            "cni.projectcalico.org/podIP",
            "projectcalico.org/IPv4Address",
            "kubernetes.io/ingress-bandwidth",
        }
        assert pod.metadata.labels == {"app.kubernetes.io/name": "a-long-name-of-an-app"}
        assert pod.addresses == ("10.244.1.5",)


def test_equal_labels_and_namespaces_are_one_text() -> None:
    one, two = (msgspec.json.decode(json.dumps(TOLD), type=Pod).metadata for _ in range(2))
    assert one.namespace is two.namespace
    for label in one.labels:
        assert one.labels[label] is two.labels[label]
