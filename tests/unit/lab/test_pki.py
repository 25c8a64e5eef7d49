"""Certificates: who they name, who signed them, and that they are made once."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from podwire.lab import pki, topology

PLAN = topology.build(topology.LabSpec(nodes=topology.default_nodes(2)))


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_certificate_is_signed_by_the_labs_authority(tmp_path: Path) -> None:
    pki.ensure(PLAN, tmp_path)
    authority = load(tmp_path / "ca.crt")
    for item in pki.wanted(PLAN):
        certificate = load(tmp_path / f"{item.stem}.crt")
        certificate.verify_directly_issued_by(authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / f"{item.stem}.crt", tmp_path / f"{item.stem}.key")
        assert (tmp_path / f"{item.stem}.key").stat().st_mode & 0o777 == 0o600


def test_names_and_groups(tmp_path: Path) -> None:
    pki.ensure(PLAN, tmp_path)
    api = load(tmp_path / "apiserver.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"kubernetes.default.svc", "localhost"} <= set(api.get_values_for_type(x509.DNSName))
    addresses = set(api.get_values_for_type(x509.IPAddress))
    assert {ipaddress.ip_address(text) for text in ("127.0.0.1", "172.18.0.2", "10.96.0.1")} <= addresses
    subject = load(tmp_path / "lab-worker-client.crt").subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:lab-worker"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"


def test_what_is_there_stays(tmp_path: Path) -> None:
    pki.ensure(PLAN, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "admin.crt").unlink()
    pki.ensure(PLAN, tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"admin.crt", "admin.key"}


def test_genuine_components_have_identities_of_their_own(tmp_path: Path) -> None:
    plan = topology.build(topology.LabSpec(nodes=topology.default_nodes(1), programs="/bin"))
    pki.ensure(plan, tmp_path)
    for stem, user in (
        ("controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("kube-proxy", "system:kube-proxy"),
        ("front-proxy-client", "front-proxy-client"),
    ):
        subject = load(tmp_path / f"{stem}.crt").subject
        assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == user
    first = (tmp_path / "sa.key").read_bytes()
    assert b"PUBLIC KEY" in (tmp_path / "sa.pub").read_bytes()
    pki.ensure(plan, tmp_path)
    assert (tmp_path / "sa.key").read_bytes() == first
    assert (tmp_path / "sa.key").stat().st_mode & 0o777 == 0o600
