"""The lab's certificates: one authority, the API's and the kubelets' serving certificates, and who may call whom.

EC P-256 throughout. `ensure` makes what is missing and leaves what is there, so a resumed lab keeps its identities.
Importing this room's page loads `cryptography` (16 MB); only the process that makes certificates should.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podwire.lab.topology import LabPlan

_LIFETIME = datetime.timedelta(days=3650)
_SKEW = datetime.timedelta(hours=1)

API_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate to have: file stem, subject, and where it is good for."""

    stem: str
    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    serving: bool = False


def wanted(plan: LabPlan) -> list[Wanted]:
    """Every certificate of a lab but the authority's own."""
    plane = plan.control_plane
    certificates = [
        Wanted(
            "apiserver",
            "kube-apiserver",
            names=(*API_NAMES, plane.name),
            addresses=("127.0.0.1", "::1", plane.address, plan.api_service),
            serving=True,
        ),
        Wanted("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        Wanted("admin", "kubernetes-admin", ("system:masters",)),
    ]
    if plan.genuine:
        certificates += [
            Wanted("controller-manager", "system:kube-controller-manager"),
            Wanted("scheduler", "system:kube-scheduler"),
            Wanted("kube-proxy", "system:kube-proxy"),
            Wanted("front-proxy-client", "front-proxy-client"),
        ]
    for node in plan.nodes:
        user = f"system:node:{node.name}"
        certificates += [
            Wanted(f"{node.name}-kubelet", user, ("system:nodes",), (node.name,), (node.address,), serving=True),
            Wanted(f"{node.name}-client", user, ("system:nodes",)),
            Wanted(f"{node.name}-agent", f"podwire:agent:{node.name}", ("podwire:agents", "system:nodes")),
        ]
    return certificates


def ensure(plan: LabPlan, directory: Path) -> None:
    """Make the authority, the certificates and the token key that are missing in `directory`."""
    authority_key, authority = _authority(directory, plan.name)
    for item in wanted(plan):
        if not (directory / f"{item.stem}.crt").exists():
            _issue(directory, item, authority_key, authority)
    token_key = directory / "token.key"
    if not token_key.exists():
        _write(token_key, secrets.token_bytes(32))
    if plan.genuine and not (directory / "sa.pub").exists():
        _signing_key(directory)


def _signing_key(directory: Path) -> None:
    """What a genuine API server signs tokens of service accounts with, and checks them by."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write(directory / "sa.key", _key_pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write(directory / "sa.pub", public)


def _authority(directory: Path, lab: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, certificate_file = directory / "ca.key", directory / "ca.crt"
    if certificate_file.exists() and key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"podwire-{lab}-ca")])
    certificate = (
        _begin(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _key_pem(key))
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _issue(
    directory: Path, item: Wanted, authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in item.organizations]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, item.common_name))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH if item.serving else ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _begin(x509.Name(subject), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if item.names or item.addresses:
        builder = builder.add_extension(_alternatives(item.names, item.addresses), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    _write(directory / f"{item.stem}.key", _key_pem(key))
    _write(directory / f"{item.stem}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _begin(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signing,
        crl_sign=signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: Sequence[str], addresses: Sequence[str]) -> x509.SubjectAlternativeName:
    entries: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    entries += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return x509.SubjectAlternativeName(entries)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """The certificate is written last and in one step: where it exists, its key does."""
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
