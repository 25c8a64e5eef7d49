"""A containerd in the machine, with one image of its own, spoken to by the CRI as a kubelet does."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.machine import PATH, Machine

SOCKET = "/run/containerd/containerd.sock"
IMAGE = "podwire.test/pause:1"
_OCI = "application/vnd.oci.image"

CONFIG_2 = """\
version = 2
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""
"""For containerd 1.6."""

CONFIG_3 = """\
version = 3
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{image}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{bin_dir}"]
    conf_dir = "{conf_dir}"
"""
"""For containerd 2."""


@dataclass
class Containerd:
    """A started containerd; `client` is our cri program, `programs` the folder of its own programs."""

    machine: Machine
    client: Path
    programs: str
    log: Path
    sandboxes: dict[str, Any] = field(default_factory=dict)

    def try_ask(self, method: str, **request: Any) -> tuple[int, str]:
        done = self.machine.try_run(str(self.client), SOCKET, method, json.dumps(request))
        return done.returncode, done.stdout + done.stderr

    def ask(self, method: str, **request: Any) -> dict[str, Any]:
        """The answer, with the CRI's own names."""
        code, output = self.try_ask(method, **request)
        assert code == 0, f"{method}: {output}\n{self.log.read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(output)
        return answer

    def run_sandbox(self, name: str, **config: Any) -> str:
        """Id of a running sandbox; `config` is the CRI's PodSandboxConfig beside its metadata."""
        metadata = {"name": name, "uid": f"uid-{name}", "namespace": "default", "attempt": 0}
        linux = {"cgroupParent": f"/{self.machine.cgroup}"}
        whole = {"metadata": metadata, "logDirectory": "/tmp", "linux": linux, **config}
        return str(self.ask("RunPodSandbox", config=whole)["podSandboxId"])

    def stop_sandbox(self, identity: str) -> None:
        self.ask("StopPodSandbox", podSandboxId=identity)

    def remove_sandbox(self, identity: str) -> None:
        self.ask("RemovePodSandbox", podSandboxId=identity)

    def sandbox(self, identity: str) -> dict[str, Any]:
        """What a kubelet reads of it: state, address, namespaces."""
        answer: dict[str, Any] = self.ask("PodSandboxStatus", podSandboxId=identity, verbose=True)
        return answer

    def network_ready(self) -> tuple[bool, str]:
        """The condition that makes a node Ready, and its message."""
        conditions = self.ask("Status")["status"]["conditions"]
        [found] = [condition for condition in conditions if condition["type"] == "NetworkReady"]
        return bool(found.get("status")), str(found.get("message", ""))


def start(
    machine: Machine, client: Path, busybox: Path, folder: Path, *, config: str, programs: str, **places: str
) -> Containerd:
    """Containerd with its image; `places` are the bin_dir and conf_dir of the configuration."""
    machine.write("/etc/containerd/config.toml", config.format(socket=SOCKET, image=IMAGE, **places))
    log = folder / "containerd.log"
    daemon = machine.start(f"{programs}/containerd", log=log, PATH=f"{programs}:{PATH}")
    runtime = Containerd(machine, client, programs, log)
    end = time.monotonic() + 120
    while runtime.try_ask("Version")[0]:
        assert daemon.poll() is None and time.monotonic() < end, f"containerd did not start\n{log.read_text()}"
        time.sleep(0.05)
    archive = folder / "pause.tar"
    archive.write_bytes(image(busybox))
    local = ["--local"] if config is CONFIG_3 else []  # containerd 2 would unpack for the default snapshotter only
    machine.run(
        f"{programs}/ctr", "--namespace=k8s.io", "images", "import", *local, "--snapshotter=native", str(archive)
    )
    return runtime


def image(busybox: Path) -> bytes:
    """An OCI archive: busybox, and a command that sleeps."""
    layer = _tar({"bin/busybox": busybox.read_bytes()})
    command = ["/bin/busybox", "sleep", "1000000"]
    settings = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": command},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [json.dumps(settings).encode(), layer]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _described(f"{_OCI}.config.v1+json", blobs[0]),
        "layers": [_described(f"{_OCI}.layer.v1.tar", layer)],
    }
    blobs.append(json.dumps(manifest).encode())
    described = _described(f"{_OCI}.manifest.v1+json", blobs[-1])
    described["annotations"] = {"io.containerd.image.name": IMAGE}
    index = {"schemaVersion": 2, "manifests": [described]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    return _tar(files | {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in blobs})


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _described(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
