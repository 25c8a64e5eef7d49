"""The CNI chain, with plugins that are a few lines of shell."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from podwire.kubelet import cniconf
from podwire.kubelet.children import Children
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment, CniRunner

ATTACHMENT = Attachment(
    "c1", "/run/netns/x", "shop", "web", "u1", {"portMappings": [{"hostPort": 80}], "bandwidth": {}}
)
PLUGIN = """#!/bin/sh
cat > {dir}/{name}.$CNI_COMMAND.json
echo "{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> {dir}/calls
{body}
"""


def plugin(directory: Path, name: str, body: str) -> None:
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLUGIN.format(dir=directory, name=name, body=body))
    path.chmod(0o755)


def conflist(directory: Path, name: str, *plugins: dict[str, Any], **rest: Any) -> None:
    (directory / "conf").mkdir(exist_ok=True)
    text = {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins), **rest}
    (directory / "conf" / name).write_text(json.dumps(text))


def runner(directory: Path) -> CniRunner:
    return CniRunner(Children(), directory / "conf", (directory / "bin",), directory / "cache")


async def test_chain_there_and_back(tmp_path: Path) -> None:
    plugin(tmp_path, "one", 'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/32"}]}\'')
    plugin(tmp_path, "two", 'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/32"}],"dns":{}}\'')
    conflist(
        tmp_path, "05-a.conflist", {"type": "one", "x": 1}, {"type": "two", "capabilities": {"portMappings": True}}
    )
    conflist(tmp_path, "10-b.conflist", {"type": "none"})
    cni = runner(tmp_path)
    result = await cni.add(ATTACHMENT)
    assert cniconf.pod_addresses(result) == ["10.0.0.5"]
    first = json.loads((tmp_path / "one.ADD.json").read_text())
    assert first == {"type": "one", "x": 1, "name": "net", "cniVersion": "1.0.0"}
    second = json.loads((tmp_path / "two.ADD.json").read_text())
    assert second["prevResult"]["ips"] == [{"address": "10.0.0.5/32"}]
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    cached = json.loads((tmp_path / "cache" / "net-c1-eth0").read_text())
    assert cached["kind"] == "cniCacheV1"
    assert cached["result"] == result
    assert cni.remembered() == {"c1": "/run/netns/x"}
    await cni.delete(Attachment("c1", ""))
    deleted = json.loads((tmp_path / "one.DEL.json").read_text())
    assert deleted["prevResult"] == result
    assert cni.remembered() == {}
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"one ADD c1 /run/netns/x eth0 {args}",
        f"two ADD c1 /run/netns/x eth0 {args}",
        f"two DEL c1  eth0 {args}",
        f"one DEL c1  eth0 {args}",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('echo \'{"code":11,"msg":"busy"}\'; exit 1', 'plugin type="one" failed (add): busy'),
        ('echo \'{"code":7,"msg":"bad","details":"mtu"}\'; exit 1', 'plugin type="one" failed (add): bad; mtu'),
        ("exit 2", 'plugin type="one" failed (add): netplugin failed with no error message: exit status 2'),
        ("echo oops >&2; exit 1", 'plugin type="one" failed (add): netplugin failed: "oops\n"'),
        (
            "echo what; exit 1",
            'plugin type="one" failed (add): netplugin failed but error parsing its diagnostic message',
        ),
        ("echo what", 'plugin type="one" failed (add): decoding result'),
    ],
)
async def test_errors_in_the_words_of_runtimes(tmp_path: Path, body: str, message: str) -> None:
    plugin(tmp_path, "one", body)
    conflist(tmp_path, "05-a.conflist", {"type": "one"})
    with pytest.raises(CniError) as caught:
        await runner(tmp_path).add(ATTACHMENT)
    assert str(caught.value).startswith(message)


async def test_missing_plugin(tmp_path: Path) -> None:
    conflist(tmp_path, "05-a.conflist", {"type": "one"})
    with pytest.raises(CniError, match=r'failed \(add\): failed to find plugin "one" in path \[.*/bin\]'):
        await runner(tmp_path).add(ATTACHMENT)


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CniError, match="cni plugin not initialized"):
        runner(tmp_path).network()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "00-half.conflist").write_text("{")
    with pytest.raises(CniError, match=r"00-half\.conflist"):
        runner(tmp_path).network()
    conflist(tmp_path, "05-a.conflist", {"type": "one"})
    assert runner(tmp_path).network().plugins[0]["type"] == "one"


async def test_del_is_told_what_add_was(tmp_path: Path) -> None:
    plugin(tmp_path, "one", "[ $CNI_COMMAND = DEL ] || echo '{}'")
    conflist(tmp_path, "05-a.conflist", {"type": "one", "capabilities": {"portMappings": True, "dns": True}})
    cni = runner(tmp_path)
    await cni.add(ATTACHMENT)
    changed = Attachment("c1", "", "shop", "web", "u1", {"dns": {"servers": ["10.0.0.1"]}})
    await cni.delete(changed)
    deleted = json.loads((tmp_path / "one.DEL.json").read_text())
    assert deleted["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}


async def test_check(tmp_path: Path) -> None:
    plugin(tmp_path, "one", '[ $CNI_COMMAND = CHECK ] && exit 0; echo \'{"ips":[{"address":"10.0.0.5/32"}]}\'')
    plugin(tmp_path, "bad", 'echo \'{"code":100,"msg":"damaged"}\'; exit 1')
    conflist(tmp_path, "05-a.conflist", {"type": "one"})
    cni = runner(tmp_path)
    with pytest.raises(CniError, match="cached result"):
        await cni.check(ATTACHMENT)
    result = await cni.add(ATTACHMENT)
    await cni.check(ATTACHMENT)
    assert json.loads((tmp_path / "one.CHECK.json").read_text())["prevResult"] == result
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, {"type": "bad"})
    with pytest.raises(CniError, match=r'plugin type="bad" failed \(check\): damaged'):
        await cni.check(ATTACHMENT)
    conflist(tmp_path, "05-a.conflist", {"type": "bad"}, disableCheck="true")
    await cni.check(ATTACHMENT)
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, cniVersion="0.3.1")
    with pytest.raises(CniError, match="does not support CHECK"):
        await cni.check(ATTACHMENT)


async def test_status_is_asked_since_1_1(tmp_path: Path) -> None:
    plugin(tmp_path, "bad", 'echo \'{"code":50,"msg":"no agent"}\'; exit 1')
    cni = runner(tmp_path)
    with pytest.raises(CniError, match="cni plugin not initialized"):
        await cni.status()
    conflist(tmp_path, "05-a.conflist", {"type": "bad"})
    await cni.status()
    conflist(tmp_path, "05-a.conflist", {"type": "bad"}, cniVersions=["1.1.0"])
    with pytest.raises(CniError, match=r"failed \(status\): no agent"):
        await cni.status()
    assert json.loads((tmp_path / "bad.STATUS.json").read_text()) == {
        "type": "bad",
        "name": "net",
        "cniVersion": "1.1.0",
    }
    assert (tmp_path / "calls").read_text() == "bad STATUS    \n"  # of no container


GC_PLUGIN = "[ $CNI_COMMAND = ADD ] && echo '{}' || true"


async def test_gc_gives_back_what_no_sandbox_owns(tmp_path: Path) -> None:
    plugin(tmp_path, "one", GC_PLUGIN)
    plugin(tmp_path, "bad", '[ $CNI_COMMAND = GC ] || exit 0; echo \'{"code":5,"msg":"no"}\'; exit 1')
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, cniVersions=["1.1.0"])
    cni = runner(tmp_path)
    for name in ("c1", "c2"):
        await cni.add(Attachment(name, "/run/netns/x"))
    conflist(tmp_path, "05-a.conflist", {"type": "bad"}, {"type": "one"}, cniVersions=["1.1.0"])
    with pytest.raises(CniError, match=r'^plugin type="bad" failed \(gc\): no$'):
        await cni.collect(lambda: ["c2", "c0"])
    told = json.loads((tmp_path / "one.GC.json").read_text())
    rows = [{"containerID": "c0", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"}]
    assert told["cni.dev/valid-attachments"] == told["cni.dev/attachments"] == rows
    calls = [line.split()[:3] for line in (tmp_path / "calls").read_text().splitlines()[2:]]
    assert calls[:3] == [["one", "DEL", "c1"], ["bad", "DEL", "c1"], ["bad", "GC"]]
    assert cni.remembered().keys() == {"c2"}


async def test_nothing_is_collected_when_the_sandboxes_cannot_be_told(tmp_path: Path) -> None:
    plugin(tmp_path, "one", GC_PLUGIN)
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, cniVersions=["1.1.0"])
    cni = runner(tmp_path)
    await cni.add(ATTACHMENT)

    def unknown() -> list[str]:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        await cni.collect(unknown)
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, cniVersions=["1.1.0"], disableGC=True)
    await cni.collect(list)
    assert (tmp_path / "calls").read_text().count("\n") == 1
    assert cni.remembered().keys() == {"c1"}


async def test_gc_and_other_calls_take_turns(tmp_path: Path) -> None:
    plugin(tmp_path, "one", "")
    (tmp_path / "bin" / "one").write_text(
        f"#!/bin/sh\necho begin $CNI_COMMAND >> {tmp_path}/turns\necho '{{}}'\ncat > /dev/null\n"
        f"[ $CNI_COMMAND = ADD ] && cat {tmp_path}/go\necho end $CNI_COMMAND >> {tmp_path}/turns\n"
    )
    os.mkfifo(tmp_path / "go")
    conflist(tmp_path, "05-a.conflist", {"type": "one"}, cniVersions=["1.1.0"])
    cni = runner(tmp_path)
    add = asyncio.ensure_future(cni.add(ATTACHMENT))
    async with asyncio.timeout(20):
        while not (tmp_path / "turns").exists():
            await asyncio.sleep(0.01)
    asked: list[bool] = []

    def valid() -> list[str]:
        asked.append(add.done())
        return ["c1"]

    collect = asyncio.ensure_future(cni.collect(valid))
    await asyncio.sleep(0)
    assert not asked
    descriptor = await asyncio.to_thread(os.open, tmp_path / "go", os.O_WRONLY)
    os.close(descriptor)
    await asyncio.gather(add, collect)
    assert (tmp_path / "turns").read_text().split() == ["begin", "ADD", "end", "ADD", "begin", "GC", "end", "GC"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "9.0.0"}, "9.0.0"),
        ({"cniVersion": "9.0.0", "cniVersions": ["0.4.0"]}, "0.4.0"),
        ({"cniVersions": ["x", "1.0.0"]}, "1.0.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.3.1", "1.1.0", "2.0.0"]}, "1.1.0"),
        ({}, "0.1.0"),
    ],
)
def test_version(config: dict[str, Any], expected: str) -> None:
    assert cniconf.negotiate(config) == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"cniVersion": 5}, "invalid type for cniVersion"),
        ({"cniVersions": "1.0.0"}, "invalid type for cniVersions"),
        ({"cniVersions": [1]}, "invalid type for cniVersions"),
        ({"cniVersion": "2.0.0", "cniVersions": ["3.0.0"]}, "no compatible CNI version: 2.0.0, 3.0.0"),
        ({"plugins": []}, "no plugins in list"),
        ({"plugins": {}}, "invalid type for plugins"),
        ({"plugins": [{"type": "x", "capabilities": ["a"]}]}, "invalid type for capabilities"),
        ({"plugins": [{}]}, "missing 'type'"),
        ({"plugins": None}, "invalid type for plugins"),
        ({"loadOnlyInlinedPlugins": True}, "`loadOnlyInlinedPlugins` is true, and no `plugins` key"),
        ({"loadOnlyInlinedPlugins": "maybe"}, "invalid value for loadOnlyInlinedPlugins"),
        ({}, "no plugin configs found"),
    ],
)
def test_broken_lists(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(CniError) as caught:
        cniconf.parse(json.dumps({"name": "net", **config}).encode(), tmp_path)
    assert words in str(caught.value)


def test_plugins_that_others_drop_in(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    for name, kind in (("20-b.conf", "b"), ("10-a.conf", "a"), ("note.txt", "no")):
        (tmp_path / "net" / name).write_text(json.dumps({"type": kind}))

    def types(**config: Any) -> list[str]:
        found = cniconf.parse(json.dumps({"name": "net", **config}).encode(), tmp_path)
        return [one["type"] for one in found.plugins]

    assert types(plugins=[{"type": "own"}]) == ["own", "a", "b"]
    assert types() == ["a", "b"]
    assert types(plugins=[{"type": "own"}], loadOnlyInlinedPlugins="true") == ["own"]
    (tmp_path / "net" / "30-c.conf").write_text("{")
    with pytest.raises(CniError, match=r"30-c\.conf"):
        types(plugins=[{"type": "own"}])


def test_addresses_of_other_interfaces_do_not_count() -> None:
    result = {
        "interfaces": [{"name": "cali1"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "fd00::1/128", "interface": 1}, {"address": "10.0.0.9/32", "interface": 1}],
    }
    assert cniconf.pod_addresses(result) == ["10.0.0.9", "fd00::1"]
    with pytest.raises(CniError):
        cniconf.pod_addresses({"interfaces": [], "ips": [{"address": "10.0.0.9/32", "interface": 3}]})
    with pytest.raises(CniError):
        cniconf.pod_addresses({})
