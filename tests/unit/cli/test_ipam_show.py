"""The tables of `ipam show`, as they are printed, and what its errors say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "observe"))

from build import block, cluster, pod, pool, who

from podwire.cli import connect, ipam_show
from podwire.cli.bars import CELLS, amount, bar, tinted
from podwire.cli.main import group
from podwire.kube.kubeconfig import Cluster as Server
from podwire.model.api import ApiError
from podwire.observe import addresses
from podwire.observe.cluster import NoKinds
from podwire.observe.explain import explain

HELD = {f"o{at}": who(f"p{at}", "n1") for at in range(14)}
WORLD = cluster(
    block("10.0.0.0/28", "n1", **HELD, o14=who("b", "n2")),
    block("10.0.0.16/28", ""),
    block("10.9.0.0/28", "n2"),
    pools=[pool(vxlanMode="Always", natOutgoing=True), pool("six", "fd00::/64", blockSize=122, disabled=True)],
    pods=[pod("b", "n2", "10.0.0.14")],
)


def test_the_tables() -> None:
    pools = ipam_show.pool_table(addresses.pool_rows(WORLD)).splitlines()
    assert pools == [
        "POOL   CIDR          BLOCKS   IPS TOTAL    IPS IN USE   IPS FREE            FILL                    STATE",
        "pool   10.0.0.0/24   /28      256          15 (6%)      241 (94%)           ▉░░░░░░░░░░░░░░░   6%   "
        "usable, vxlan, nat",
        "six    fd00::/64     /122     1.8447e+19   0 (0%)       1.8447e+19 (100%)   ░░░░░░░░░░░░░░░░   0%   disabled",
    ]
    blocks = ipam_show.block_table(addresses.pool_rows(WORLD), addresses.block_rows(WORLD)).splitlines()
    assert [line.split()[0] for line in blocks] == ["GROUPING", "IP", "Block", "Block", "IP", "Block"]
    assert "███████████████░  94%   n1 (1 lent)" in blocks[2]
    assert blocks[3].endswith("nobody's") and blocks[5].endswith("n2, in no pool")
    nodes = ipam_show.node_table(addresses.node_rows(WORLD)).splitlines()
    assert [line.split()[0] for line in nodes] == ["NODE", "n1", "n2"]
    lent = ipam_show.borrowed_table(addresses.borrowed_rows(WORLD)).splitlines()
    assert lent[1].split() == ["10.0.0.14", "n2", "10.0.0.0/28", "n1", "pod", "default/b"]
    assert "no address is borrowed" in ipam_show.borrowed_table([])
    assert "IPPool" in ipam_show.pool_table([])


def test_one_address() -> None:
    lines = ipam_show.explained(explain(WORLD, "10.0.0.14")).splitlines()
    assert lines[0] == "Address:   10.0.0.14, in use" and "Node:      n2 (borrowed)" in lines
    assert lines[-1] == "Note:      node n2 borrowed it from a block of node n1"


@given(st.integers(1, 1 << 128), st.data())
def test_a_bar_is_full_only_when_all_is_used_and_empty_only_when_nothing_is(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    drawn = bar(count, total)[:CELLS]
    assert len(drawn) == CELLS and (drawn == "█" * CELLS) == (count == total) and (set(drawn) == {"░"}) == (count == 0)


def test_bars_are_tinted_by_how_full_they_are() -> None:
    colours = [tinted(bar(count, 100))[:5] for count in (10, 70, 90)]
    assert colours == ["\x1b[32m", "\x1b[33m", "\x1b[31m"]
    assert amount(1 << 32) == "4294967296" and amount(1 << 64) == "1.8447e+19"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ipam_show, "target", lambda *_: None)
    monkeypatch.setattr(ipam_show, "ask", lambda *_: WORLD)
    return CliRunner()


@pytest.mark.parametrize("words", [[], ["--show-blocks"], ["--show-borrowed"], ["--ip", "10.0.0.14"]])
def test_programs_get_what_people_see(answered: CliRunner, words: list[str]) -> None:
    done = answered.invoke(group, ["ipam", "show", *words, "-o", "json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["address"] == "10.0.0.14" if "--ip" in words else {"pools", "nodes"} <= set(value)


def test_an_address_that_is_none_is_bad_usage(answered: CliRunner) -> None:
    done = answered.invoke(group, ["ipam", "show", "--ip", "10.0"])
    assert done.exit_code == 2 and "'10.0' is not an IP address" in done.output


FORBIDDEN = 'ippools.projectcalico.org is forbidden: User "eve" cannot list resource "ippools" in API group "x"'
WHERE = connect.Target(Server("https://192.0.2.1:6443"), "/home/eve/.kube/config", None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiError(0, "ConnectionError", "refused"), ["no answer", "https://192.0.2.1:6443", "/home/eve", "lab list"]),
        (ApiError(401, "Unauthorized", "Unauthorized"), ["does not accept these credentials"]),
        (
            ApiError(403, "Forbidden", FORBIDDEN, {"group": "projectcalico.org", "kind": "ippools"}),
            ["the verb list on ippools.projectcalico.org is missing", "--verb=list"],
        ),
        (ApiError(403, "Forbidden", "no"), ["a permission is missing"]),
        (ApiError(500, "InternalError", "oh"), ["refuses: oh"]),
    ],
)
def test_a_refusal_says_what_to_do(error: ApiError, words: list[str]) -> None:
    told = connect.explained(error, WHERE)
    assert all(word in told for word in words), told


def test_a_cluster_without_pools_is_said_to_be_one() -> None:
    async def work(_: Any) -> None:
        raise NoKinds

    with pytest.raises(click.ClickException, match="has no IPPools"):
        connect.ask(WHERE, work)


def test_no_cluster_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PODWIRE_STATE", str(tmp_path))
    with pytest.raises(click.ClickException, match="podwire lab up"):
        connect.target()
    with pytest.raises(click.ClickException, match="absent: No such file"):
        connect.target(str(tmp_path / "absent"))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    with pytest.raises(click.ClickException, match=r"KUBECONFIG names .*/one, .*/two, and there is no such file"):
        connect.target()
