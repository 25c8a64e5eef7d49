"""What a call's attachment is on record, for every role that wires or admits; and what stands for a lost record."""

from __future__ import annotations

from podwire.agent.attachments import READY, WIRING, Attachment, Attachments
from podwire.cni import plan, spec
from podwire.cni.capabilities import Bandwidth
from podwire.cni.spec import CniError, Request, Result


def to_check(records: Attachments, request: Request) -> tuple[Attachment, Result]:
    """The record that CHECK looks at, and prevResult. Raises CniError 7 and 3."""
    if request.previous is None:
        raise CniError(spec.BAD_CONFIG, "CHECK needs prevResult")
    record = records.get((request.container_id, request.interface, ""))
    if record is None or record.state != READY:
        raise CniError(spec.UNKNOWN_CONTAINER, "no such attachment", f"{request.container_id} {request.interface}")
    return record, request.previous


def orphan(request: Request, role: str, handle: str) -> Attachment:
    """Our state is gone, or ADD never came: DEL gives back what the names lead to, an ifb included."""
    return Attachment(
        container_id=request.container_id,
        interface=request.interface,
        network=request.network,
        netns=request.netns,
        host_name=plan.host_name(request),
        pod_mac="",
        mtu=0,
        handle=handle,
        state=WIRING,
        role=role,
        limits=Bandwidth(),
    )
