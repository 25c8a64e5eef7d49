"""Who we are to the API, for a process that lives longer than its credentials: authority, certificate and key are read
again when their files change. Connections that stand keep what they were made with; new ones get what is there now.

(A token's file is read for every call, by the client.)
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable

from podwire.kube.kubeconfig import Cluster, KubeconfigError

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


class Identity:
    """`cluster` as it is now. With `again`, which reads it anew, its files are looked at every few seconds, and when
    `doubt` was told. What cannot be read or used is logged, and the former credentials stay."""

    def __init__(self, cluster: Cluster, again: Callable[[], Cluster] | None = None) -> None:
        self.cluster = cluster
        self._again = again
        self._seen = _stamps(cluster)
        self._next = time.monotonic() + LOOK_SECONDS
        self._tls: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext | bool:
        """For a connection that is to be made. Raises ssl.SSLError for credentials that never were good."""
        if self._again is not None and time.monotonic() >= self._next:
            self._look(self._again)
        if not self.cluster.server.startswith("https"):
            return True
        if self._tls is None:
            self._tls = context(self.cluster)
        return self._tls

    def doubt(self) -> None:
        """The server was not believed, or did not believe us."""
        self._next = 0.0

    def _look(self, again: Callable[[], Cluster]) -> None:
        self._next = time.monotonic() + LOOK_SECONDS
        seen = _stamps(self.cluster)
        if seen == self._seen:
            return
        try:
            found = again()
            tls = context(found)
        except (KubeconfigError, OSError, ValueError) as error:  # SSLError is an OSError
            log.warning("new credentials cannot be used error=%s", error)
            return
        if found != self.cluster:
            log.info("new credentials are used files=%s", ",".join(found.files))
            self.cluster, self._tls = found, tls
        self._seen = seen


def _stamps(cluster: Cluster) -> list[tuple[int, int, int] | None]:
    """Of each file: it is another one, or was written, when this changes."""
    found: list[tuple[int, int, int] | None] = []
    for name in cluster.files:
        try:
            told = os.stat(name)  # noqa: PTH116 - of a few files every few seconds, for ever
            found.append((told.st_ino, told.st_mtime_ns, told.st_size))
        except OSError:
            found.append(None)
    return found


def context(cluster: Cluster) -> ssl.SSLContext:
    """Raises OSError (SSLError), ValueError."""
    made = ssl.create_default_context(cadata=cluster.ca.decode() if cluster.ca else None)
    if cluster.insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if cluster.cert:
        # OpenSSL reads a chain only from files; this one never touches a disk.
        memory = os.memfd_create("podwire-client-cert", os.MFD_CLOEXEC)
        try:
            os.write(memory, cluster.cert + b"\n" + cluster.key)
            made.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
    return made
