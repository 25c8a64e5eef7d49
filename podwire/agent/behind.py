"""What roles that stand behind another plugin have in common: the result so far, and what it says of the pod."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.agent.attachments import Attachment
from podwire.agent.extras import Extras
from podwire.cni import spec
from podwire.cni.spec import CniError, Request, Result
from podwire.kernel.netlink import KernelError


def chained(request: Request) -> Result:
    """The result of the plugins before. Raises CniError 7 when there is none."""
    if request.previous is None:
        raise CniError(spec.BAD_CONFIG, f"{request.role} must stand behind another plugin", "prevResult is missing")
    return request.previous


def record(request: Request, role: str, boot: str) -> Attachment:
    """A record that still lacks what the role does."""
    return Attachment(
        container_id=request.container_id,
        interface=request.interface,
        network=request.network,
        netns=request.netns,
        host_name="",
        pod_mac="",
        mtu=0,
        handle="",
        namespace=request.namespace,
        pod=request.pod,
        uid=request.uid,
        boot=boot,
        role=role,
    )


def pod_addresses(result: Result) -> Iterator[str]:
    """Addresses inside the pod, bare: those of host interfaces are none."""
    for address in result.ips:
        at = address.interface
        if at is None or not 0 <= at < len(result.interfaces) or result.interfaces[at].sandbox:
            yield address.address.partition("/")[0]


def ready(extras: Extras) -> None:
    """For STATUS. Raises CniError 50."""
    try:
        extras.status()
    except KernelError as error:
        raise CniError(spec.UNAVAILABLE, "not ready", str(error)) from error
