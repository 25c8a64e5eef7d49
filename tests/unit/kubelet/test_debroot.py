"""The private root: what apt is told, what of its plan is taken, what is finished by hand; no network."""

import os
import subprocess
from pathlib import Path

import pytest

from podwire.kubelet import debfinish, debroot, hostroot

PLAN = """Reading package lists...
'http://d/pool/n/nginx_1.22.1-9%2bdeb12u3_amd64.deb' nginx_1.22.1-9+deb12u3_amd64.deb 532468 SHA256:aa
'http://d/pool/b/bind9-libs_9.18_amd64.deb' bind9-libs_1%3a9.18.49-1_amd64.deb 100 SHA256:bb
'http://d/pool/p/perl_5.36_amd64.deb' perl_5.36.0-7_amd64.deb 100 SHA256:cc
'http://d/pool/p/libperl5.36_5.36_amd64.deb' libperl5.36_5.36.0-7_amd64.deb 100 SHA256:cc
"""


def test_the_plan_names_version_and_size_and_leaves_out_what_only_scripts_use() -> None:
    assert debroot.closure(PLAN) == {
        "nginx_1.22.1-9+deb12u3_amd64.deb": ("nginx=1.22.1-9+deb12u3", 532468),
        "bind9-libs_1%3a9.18.49-1_amd64.deb": ("bind9-libs=1:9.18.49-1", 100),
    }
    assert debroot.versions(["bind9-libs_1%3a9.18.49-1_amd64.deb"]) == {"bind9-libs": "1:9.18.49-1"}


def test_apt_keeps_the_hosts_ways_to_fetch_and_nothing_else(tmp_path: Path) -> None:
    hooks = 'DPkg::Post-Invoke:: "rm -rf /x";\nDir "/";\nAPT::Update::Post-Invoke:: "x";\n'
    dump = 'Acquire::http::Proxy "http://p:1";\n' + hooks
    text = debroot.apt_settings(dump, tmp_path, "amd64")
    assert 'Acquire::http::Proxy "http://p:1";' in text and "Invoke" not in text
    assert f'Dir::State::status "{tmp_path}/status";' in text and f'Dir::Cache "{tmp_path}/cache";' in text


def test_a_finished_root_is_returned_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = debroot.root_path(tmp_path)
    (wanted / "usr/bin").mkdir(parents=True)
    (tmp_path / "root").symlink_to(wanted.name)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert debroot.ensure(tmp_path, print) == wanted


def test_without_apt_the_hosts_programs_are_copied_and_nothing_of_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    said: list[str] = []
    root = debroot.ensure(tmp_path, said.append)
    assert root == tmp_path / "root-host" and (tmp_path / "root").resolve() == root
    assert "apt-get is not installed" in said[0]
    assert (root / "bin/sh").exists() and (root / "usr/bin/env").exists()
    assert (root / "etc/passwd").read_text() == debfinish.FILES["etc/passwd"]
    assert not list((root / "root").iterdir()) and not list((root / "run").iterdir())
    assert not (root / "etc/hostname").exists()
    if os.geteuid() == 0:
        ran = subprocess.run(
            ["/usr/sbin/chroot", root, "/bin/sh", "-c", "echo ran"], capture_output=True, text=True, check=False
        )
        assert ran.stdout == "ran\n", ran.stderr


def test_finish_links_only_what_is_there_and_bundles_certificates(tmp_path: Path) -> None:
    root = tmp_path / "r"
    debroot.prepare(root)
    (root / "usr/bin/mawk").touch()
    (root / "usr/bin/vi").symlink_to("own")
    (root / "var/run").mkdir(parents=True)
    (root / "var/lock/held").mkdir(parents=True)
    (root / "usr/bin/vim.tiny").touch()
    for name in ("b.crt", "a.crt"):
        (root / "usr/share/ca-certificates/mozilla").mkdir(parents=True, exist_ok=True)
        (root / "usr/share/ca-certificates/mozilla" / name).write_text(f"{name}\n\n")
    debfinish.finish(root, {"nginx": "1"})
    debfinish.finish(root, {"nginx": "1"})
    assert (root / "var/run").readlink() == Path("/run") and (root / "var/lock/held").is_dir()
    assert "\ntcpdump:x:0:0:" in (root / "etc/passwd").read_text()
    assert (root / "bin/awk").readlink() == Path("mawk")
    assert (root / "usr/bin/vi").readlink() == Path("own") and not (root / "usr/bin/nc").is_symlink()
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "a.crt\nb.crt\n"
    assert (root / debfinish.PACKAGE_LIST).read_text() == "nginx 1\n"
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    error = debroot._explained(OSError(28, "No space left on device"), tmp_path)
    assert "no space left" in str(error) and "400 MB" in str(error)


def test_a_broken_package_is_told_by_name(tmp_path: Path) -> None:
    deb = tmp_path / "x_1_all.deb"
    deb.write_bytes(b"not a package")
    (tmp_path / "r").mkdir()
    with pytest.raises(debroot.DebrootError, match=r"x_1_all\.deb"):
        debroot.unpack(deb, tmp_path / "r")


def test_ldd_output() -> None:
    libraries = "\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n"
    listing = "/usr/bin/ip:\n\tlinux-vdso.so.1 (0x1)\n" + libraries + "\tnot a dynamic executable\n"
    assert hostroot.libraries_in(listing) == [Path("/lib/x/libc.so.6"), Path("/lib64/ld.so.2")]
