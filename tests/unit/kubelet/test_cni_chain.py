"""The CNI chain, with plugins that are a few lines of shell."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.3.1", "1.1.0", "2.0.0"]}, "1.1.0"),
        ({}, "0.1.0"),
    ],
)
def test_version(config: dict[str, Any], expected: str) -> None:
    assert cniconf.negotiate(config) == expected


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
