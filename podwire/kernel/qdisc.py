"""Traffic shaping by rtnetlink: token buckets, ifb devices and the redirection to them (linux/pkt_sched.h, pkt_cls.h).

A token bucket (tbf) delays what a device *sends*. What it receives is shaped by redirecting it to an ifb device, which
sends it into the stack: a token bucket there. All values are bytes and bytes per second.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from podwire.kernel import links
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    KernelError,
    Message,
    attribute,
    attributes,
    nested,
    text,
    u32,
    u64,
)

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

_NLM_F_ECHO = 0x8
ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_TBF_HANDLE, _INGRESS_HANDLE = 1 << 16, 0xFFFF << 16
_TCMSG = struct.Struct("=BBHiIII")  # family, pad, pad, ifindex, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, link layer, overhead, cell_align, mpu, rate
_TBF_QOPT = struct.Struct("=12s12sIII")  # rate, peak rate, limit, buffer, mtu
_U32_SEL = struct.Struct("=BBBxHHhhI")  # flags, offshift, keys, offmask, off, offoff, hoff, hmask
_U32_KEY = struct.Struct("=IIii")  # mask, value, offset, offmask
_MIRRED = struct.Struct("=IIiiiiI")  # index, capab, action, refcnt, bindcnt, eaction, ifindex
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_SELECTOR, _U32_ACTION = 5, 7
_MIRRED_PARMS = 2
_ETHERNET, _STOLEN, _REDIRECT, _TERMINAL = 1, 4, 1, 1
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network order
_PRIORITY = 1
_TICK_NS = 64  # PSCHED_SHIFT 6: how the kernel counts time in these messages
_U32_MAX = (1 << 32) - 1
MAX_BUFFER_SECONDS = 250
"""The bucket's depth in time fits 32 bits of ticks up to here."""

_LACKS = {
    "tbf": "the kernel lacks token buckets: load the module sch_tbf (CONFIG_NET_SCH_TBF)",
    "ifb": "the kernel lacks ifb devices: load the module ifb (CONFIG_IFB)",
    "ingress": "the kernel lacks the ingress queue: load the module sch_ingress (CONFIG_NET_SCH_INGRESS)",
    "redirect": "the kernel lacks redirection: load cls_u32 and act_mirred (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
}


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """`burst` is the bucket's depth, `limit` what may wait in the queue; beyond it packets are dropped."""

    rate: int
    burst: int
    limit: int


def put_bucket(index: int, bucket: TokenBucket) -> Message:
    """Make the device's root queue this token bucket, whatever it was."""
    rate = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(bucket.rate, _U32_MAX))
    parms = _TBF_QOPT.pack(rate, bytes(12), min(bucket.limit, _U32_MAX), min(_ticks(bucket), _U32_MAX), 0)
    options = [attribute(_TBF_PARMS, parms), u32(_TBF_BURST, min(bucket.burst, _U32_MAX))]
    if bucket.rate > _U32_MAX:
        options.append(u64(_TBF_RATE64, bucket.rate))
    body = _tcmsg(index, _TBF_HANDLE, ROOT) + text(_KIND, "tbf") + nested(_OPTIONS, *options)
    return Message(f"shape device {index}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def drop_root(index: int) -> Message:
    """The device's root queue becomes the default one. The kernel says ENOENT when it is already."""
    return Message(f"unshape device {index}", RTM_DELQDISC, 0, _tcmsg(index, 0, ROOT))


def put_ingress(index: int) -> Message:
    """The place for filters on what the device receives. EEXIST when it stands."""
    body = _tcmsg(index, _INGRESS_HANDLE, INGRESS) + text(_KIND, "ingress")
    return Message(f"add ingress queue to device {index}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def drop_ingress(index: int) -> Message:
    """The ingress queue with all its filters. The kernel says ENOENT or EINVAL when there is none."""
    return Message(f"drop ingress queue of device {index}", RTM_DELQDISC, 0, _tcmsg(index, _INGRESS_HANDLE, INGRESS))


def put_redirect(index: int, target: int) -> Message:
    """Whatever the device receives is sent by the device `target` instead (which, an ifb, hands it on)."""
    mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT, target)
    action = nested(1, text(_KIND, "mirred"), nested(_OPTIONS, attribute(_MIRRED_PARMS, mirred)))
    selector = _U32_SEL.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)  # one key that always matches
    options = nested(_OPTIONS, attribute(_U32_SELECTOR, selector), nested(_U32_ACTION, action))
    body = _tcmsg(index, 0, _INGRESS_HANDLE, _PRIORITY << 16 | _ALL_PROTOCOLS) + text(_KIND, "u32") + options
    return Message(f"redirect device {index} to {target}", RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def bucket(sock: RouteSocket, index: int) -> TokenBucket | None:
    """The device's token bucket as the kernel holds it (`burst` to the precision of its clock), None without one."""
    found = _root(sock, index)
    if found.get(_KIND, b"").rstrip(b"\0") != b"tbf":
        return None
    options = attributes(found[_OPTIONS])
    rate_raw, _, limit, ticks, _ = _TBF_QOPT.unpack(options[_TBF_PARMS])
    rate = int(_RATESPEC.unpack(rate_raw)[5])
    if _TBF_RATE64 in options:
        (rate,) = struct.unpack("=Q", options[_TBF_RATE64])
    return TokenBucket(rate, round(ticks * _TICK_NS * rate / 1e9), limit)


def same(one: TokenBucket | None, other: TokenBucket | None) -> bool:
    """Equal as far as the kernel's clock can tell."""
    if one is None or other is None:
        return one is other
    tolerance = 4 * _TICK_NS * one.rate / 1e9 + one.burst / 1000 + 1
    return (one.rate, one.limit) == (other.rate, other.limit) and abs(one.burst - other.burst) <= tolerance


def redirected_to(sock: RouteSocket, index: int) -> int | None:
    """The device that gets what this one receives; None without a redirection of all packets."""
    try:
        rows = sock.dump(Message(f"list filters of device {index}", RTM_GETTFILTER, 0, _tcmsg(index, 0, INGRESS)))
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            return None
        raise
    for row in rows:
        options = attributes(attributes(row, _TCMSG.size).get(_OPTIONS, b""))
        for action in attributes(options.get(_U32_ACTION, b"")).values():
            parms = attributes(attributes(action).get(_OPTIONS, b"")).get(_MIRRED_PARMS)
            if parms is not None:
                return int(_MIRRED.unpack(parms)[6])
    return None


def create_ifb(name: str, mtu: int) -> Message:
    """An ifb device, up."""
    return links.create(name, "ifb", [u32(links.IFLA_MTU, mtu)], up=True)


def shape(sock: RouteSocket, link: Link, wanted: TokenBucket | None) -> bool:
    """Give the device's root queue this token bucket, or none; whether something was changed.

    Raises KernelError, which names what the kernel lacks.
    """
    actual = bucket(sock, link.index)
    if same(wanted, actual):
        return False
    if wanted is not None:
        _explained(sock, "tbf", put_bucket(link.index, wanted))
    else:
        sock.change(drop_root(link.index))
    return True


def redirect(sock: RouteSocket, link: Link, target: int | None) -> bool:
    """Let `target` send what the device receives, or (None) undo that; whether something was changed.

    Raises KernelError, which names what the kernel lacks.
    """
    actual = redirected_to(sock, link.index)
    if actual == target:
        return False
    if actual is not None or target is None:
        sock.change(drop_ingress(link.index))
    if target is not None:
        _explained(sock, "ingress", put_ingress(link.index), errno.EEXIST)
        _explained(sock, "redirect", put_redirect(link.index, target))
    return True


def ifb(sock: RouteSocket, name: str, mtu: int) -> Link:
    """The ifb device of that name, made if need be, up. Raises KernelError, which names what the kernel lacks."""
    found = sock.link(name)
    if found is not None and found.kind != "ifb":
        raise KernelError(f"create ifb {name}", errno.EEXIST, f"an interface of kind {found.kind or '?'} has its name")
    if found is None:
        _explained(sock, "ifb", create_ifb(name, mtu))
    elif not found.up or found.mtu != mtu:
        sock.set_link(found.index, up=True, mtu=mtu)
    made = sock.link(name)
    if made is None:
        raise KernelError(f"find ifb {name}", errno.ENODEV)
    return made


def _explained(sock: RouteSocket, part: str, message: Message, *fine: int) -> None:
    (error,) = sock.try_batch([message])
    if error is None or error.errno in fine:
        return
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
        raise KernelError(error.what, error.errno, f"{error.text}; {_LACKS[part]}".removeprefix("; "))
    raise error


def _root(sock: RouteSocket, index: int) -> dict[int, bytes]:
    # answered only when an echo is asked for, and of a built-in queue not even then: hence the acknowledgement
    message = Message(f"read queue of device {index}", RTM_GETQDISC, _NLM_F_ECHO | NLM_F_ACK, _tcmsg(index, 0, ROOT))
    try:
        return attributes(sock.get(message)[1], _TCMSG.size)
    except KernelError as error:
        if error.errno in (0, errno.ENOENT):
            return {}
        raise


def _ticks(bucket: TokenBucket) -> int:
    return bucket.burst * 1_000_000_000 // bucket.rate // _TICK_NS


def _tcmsg(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _TCMSG.pack(0, 0, 0, index, handle, parent, info)
