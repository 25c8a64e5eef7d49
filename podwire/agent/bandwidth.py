"""A pod's rates: what it receives is shaped where the host end sends it, what it sends by an ifb device of its own.

Shaping delays, and drops only what would wait longer than 25 ms (as the reference plugin has it); policing would
drop at once. Nothing but netlink. The ifb's name follows from the host end's, so that a removal needs nothing else.
"""

from __future__ import annotations

import errno
import hashlib

from podwire.cni.capabilities import Bandwidth
from podwire.kernel import links, qdisc
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.qdisc import TokenBucket

IFB_PREFIX = "bwp"
LATENCY_SECONDS = 0.025
UNSTATED_BURST = (1 << 32) - 1
"""Runtimes put this where a pod's annotations say a rate and nothing of a burst."""
UNSTATED_SECONDS, UNSTATED_LEAST = 0.05, 64 * 1024
_FRAME_BYTES = 18  # Ethernet's head, with a VLAN tag
_MAX = (1 << 32) - 1


def ifb_name(host_name: str) -> str:
    return IFB_PREFIX + hashlib.sha1(host_name.encode(), usedforsecurity=False).hexdigest()[:12]


def bucket(rate: int, burst: int, mtu: int) -> TokenBucket | None:
    """The token bucket for bits per second and bits; None without a rate.

    A bucket that cannot hold a full packet would stop the interface: it is made to hold one. A burst that nobody stated
    is 50 ms of the rate, at least 64 KiB: what runtimes write instead would let half a gigabyte pass unshaped.
    """
    if not rate:
        return None
    per_second = max(1, rate // 8)
    depth = burst // 8
    if burst == UNSTATED_BURST:
        depth = max(int(per_second * UNSTATED_SECONDS), UNSTATED_LEAST)
    depth = max(min(depth, per_second * qdisc.MAX_BUFFER_SECONDS, _MAX), mtu + _FRAME_BYTES)
    return TokenBucket(per_second, depth, min(int(per_second * LATENCY_SECONDS) + depth, _MAX))


def apply(socket: RouteSocket, host_name: str, limits: Bandwidth) -> None:
    """Make the limits hold; silent when they do. Raises KernelError, which names what the kernel lacks."""
    link = _host_end(socket, host_name)
    qdisc.shape(socket, link, bucket(limits.ingress_rate, limits.ingress_burst, link.mtu))
    outward = bucket(limits.egress_rate, limits.egress_burst, link.mtu)
    if outward is None:
        _unredirect(socket, link)
        return
    middle = qdisc.ifb(socket, ifb_name(host_name), link.mtu)
    qdisc.shape(socket, middle, outward)
    qdisc.redirect(socket, link, middle.index)


def remove(socket: RouteSocket, host_name: str) -> None:
    """No limit, no queue, no ifb; absent is fine, the host end too. Raises KernelError."""
    link = socket.link(host_name)
    if link is not None:
        qdisc.shape(socket, link, None)
        _unredirect(socket, link)
    else:
        remove_ifb(socket, host_name)


def remove_ifb(socket: RouteSocket, host_name: str) -> None:
    """The part that outlives the host end. Absent is fine. Raises KernelError."""
    middle = socket.link(ifb_name(host_name))
    if middle is not None and middle.kind == "ifb":
        (error,) = socket.try_batch([links.delete_link(middle.index)])
        if error is not None and error.errno != errno.ENODEV:
            raise error


def faults(socket: RouteSocket, host_name: str, limits: Bandwidth) -> list[str]:
    """What differs, in words. Raises KernelError."""
    link = socket.link(host_name)
    if link is None:
        return [f"host interface {host_name} is missing"]
    found = _bucket_faults(socket, link, bucket(limits.ingress_rate, limits.ingress_burst, link.mtu), "ingress")
    outward = bucket(limits.egress_rate, limits.egress_burst, link.mtu)
    middle = socket.link(ifb_name(host_name))
    if outward is None:
        return found
    if middle is None:
        return [*found, f"egress: interface {ifb_name(host_name)} is missing"]
    if not middle.up:
        found.append(f"egress: interface {middle.name} is down")
    if qdisc.redirected_to(socket, link.index) != middle.index:
        found.append(f"egress: {host_name} is not redirected to {middle.name}")
    return found + _bucket_faults(socket, middle, outward, "egress")


def _bucket_faults(socket: RouteSocket, link: Link, wanted: TokenBucket | None, direction: str) -> list[str]:
    actual = qdisc.bucket(socket, link.index)
    if qdisc.same(wanted, actual):
        return []
    return [f"{direction}: {link.name} has {_words(actual)} instead of {_words(wanted)}"]


def _words(bucket: TokenBucket | None) -> str:
    return f"{bucket.rate * 8} bit/s (burst {bucket.burst} bytes)" if bucket else "no limit"


def _unredirect(socket: RouteSocket, link: Link) -> None:
    if socket.link(ifb_name(link.name)) is not None:
        qdisc.redirect(socket, link, None)
        remove_ifb(socket, link.name)


def _host_end(socket: RouteSocket, name: str) -> Link:
    link = socket.link(name)
    if link is None:
        raise KernelError(f"limit bandwidth of {name}", errno.ENODEV)
    return link
