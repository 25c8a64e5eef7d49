"""How each program of a genuine cluster is called. Pure."""

from __future__ import annotations

from podwire.genuine.settings import (
    API_PORT,
    BIN,
    CONFIG,
    CONTAINERD_CONFIG,
    CONTAINERD_SOCKET,
    DOMAIN,
    ETCD_PORT,
    KUBELET_CONFIG,
    PKI,
    PROXY_CONFIG,
    Cluster,
    Machine,
)

Argv = tuple[str, ...]

ISSUER = f"https://kubernetes.default.svc.{DOMAIN}"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("containerd", "kubelet")
BESIDE = ("containerd-shim-runc-v2", "runc", "ctr")
IMAGES = ("coredns", "agnhost")
PROXY = "kube-proxy"


def needed(*, proxy: bool) -> tuple[str, ...]:
    """Names of the programs that a cluster needs."""
    return (*CONTROL_PLANE, *NODE, *BESIDE, *IMAGES, *((PROXY,) if proxy else ()))


def etcd(data: str) -> Argv:
    """Listens on loopback only. Its data need not outlive this machine's power: nothing waits for the disk."""
    url = f"http://127.0.0.1:{ETCD_PORT}"
    return (
        f"{BIN}/etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{ETCD_PORT + 1}",
        "--unsafe-no-fsync",
        f"--quota-backend-bytes={4 << 30}",
        "--log-level=warn",
    )


def apiserver(cluster: Cluster) -> Argv:
    """The API on every address of its node."""
    return (
        f"{BIN}/kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={cluster.plane}",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={PKI}/ca.crt",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={PKI}/sa.pub",
        f"--service-account-signing-key-file={PKI}/sa.key",
        f"--service-cluster-ip-range={cluster.service_subnet}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={PKI}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={PKI}/front-proxy-client.key",
    )


def controller_manager(cluster: Cluster) -> Argv:
    """All of its controllers; it is alone, so there is nothing to elect."""
    masks: Argv = (f"--node-cidr-mask-size={cluster.node_mask}",)
    if cluster.node_mask6:  # the general option is refused then
        masks = (
            f"--node-cidr-mask-size-ipv4={cluster.node_mask}",
            f"--node-cidr-mask-size-ipv6={cluster.node_mask6}",
        )
    return (
        f"{BIN}/kube-controller-manager",
        *_identity("controller-manager"),
        "--bind-address=127.0.0.1",
        f"--root-ca-file={PKI}/ca.crt",
        f"--service-account-private-key-file={PKI}/sa.key",
        "--use-service-account-credentials",
        "--allocate-node-cidrs",
        f"--cluster-cidr={cluster.pod_subnet}",
        *masks,
        f"--service-cluster-ip-range={cluster.service_subnet}",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        "--leader-elect=false",
    )


def scheduler() -> Argv:
    """The default profile."""
    return (f"{BIN}/kube-scheduler", *_identity("scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false")


def _identity(name: str) -> Argv:
    file = CONFIG / f"{name}.conf"
    return tuple(f"--{key}={file}" for key in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"))


def containerd() -> Argv:
    """The node's runtime."""
    return (f"{BIN}/containerd", f"--config={CONTAINERD_CONFIG}", "--log-level=warn")


def ctr(*words: str) -> Argv:
    """A call of containerd's client, for images that kubelet sees."""
    return (f"{BIN}/ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *words)


def kubelet(machine: Machine) -> Argv:
    """Registers the node under its own name and address."""
    own, _ = divided(machine.labels)
    labels = (f"--node-labels={','.join(f'{key}={value}' for key, value in own)}",) if own else ()
    return (
        f"{BIN}/kubelet",
        f"--config={KUBELET_CONFIG}",
        f"--kubeconfig={CONFIG}/kubelet.kubeconfig",
        f"--node-ip={machine.address}",
        f"--hostname-override={machine.name}",
        *labels,
    )


def divided(labels: tuple[tuple[str, str], ...]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Labels that a kubelet may give its own Node, and those that only an administrator may (admission plugin
    NodeRestriction: kubernetes.io and k8s.io, but for kubelet.kubernetes.io and node.kubernetes.io)."""
    own: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for key, value in labels:
        domain = key.partition("/")[0] if "/" in key else ""
        reserved = any(domain == top or domain.endswith(f".{top}") for top in ("kubernetes.io", "k8s.io"))
        free = any(
            domain == top or domain.endswith(f".{top}") for top in ("kubelet.kubernetes.io", "node.kubernetes.io")
        )
        (others if reserved and not free else own).append((key, value))
    return own, others


def kube_proxy() -> Argv:
    """Services on this node."""
    return (f"{BIN}/kube-proxy", f"--config={PROXY_CONFIG}")
