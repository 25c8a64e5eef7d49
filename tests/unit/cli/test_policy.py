"""`podwire policy` on files: what is printed, and the exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "observe"))

from scenes import SHOP, policy

from podwire.cli.policy import policy as group

FRONT_ONLY = policy(
    "api",
    "{podSelector: {matchLabels: {app: api}}, "
    "ingress: [{from: [{podSelector: {matchLabels: {app: front}}}], ports: [{port: http}]}]}",
)
TYPO = policy("typo", "{podSelector: {matchLabels: {app: frnt}}}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(SHOP)
    Path("policies").mkdir()
    Path("policies/api.yaml").write_text(FRONT_ONLY)
    Path("policies/notes.txt").write_text("not: [a manifest")
    Path("policies/more").mkdir()
    Path("policies/more/typo.yaml").write_text(TYPO)
    return tmp_path


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(group, [*words], input=stdin)


def test_check(folder: Path) -> None:
    sound = run("check", "-f", "shop.yaml", "-f", "policies")
    assert (sound.exit_code, sound.output) == (0, "nothing found in 1 policy, 4 pods in 3 namespaces\n")
    found = run("check", "-f", "shop.yaml", "-f", "policies", "-R")
    assert found.exit_code == 1
    assert found.output.splitlines()[0] == (
        "warning: NetworkPolicy shop/typo spec.podSelector   policies/more/typo.yaml:4"
    )
    assert "→ Pods there have app = api, exporter, front: is one of these meant?" in found.output
    assert found.output.splitlines()[-1] == "1 warning in 2 policies, 4 pods in 3 namespaces"


def test_check_as_json_and_yaml(folder: Path) -> None:
    words = ("check", "-f", "shop.yaml", "-f", "policies", "-R")
    one, other = json.loads(run(*words, "-o", "json").output), yaml.safe_load(run(*words, "-o", "yaml").output)
    assert one == other
    assert one["findings"][0]["where"] == "policies/more/typo.yaml:4" and one["checked"]["Pod"] == 5


def test_hints_alone_are_no_failure(folder: Path) -> None:
    text = policy("p", "{podSelector: {}, egress: [{}]}")
    hinted = run("check", "-f", "shop.yaml", "-f", "-", stdin=text)
    assert (hinted.exit_code, hinted.output.splitlines()[-1][:6]) == (0, "1 hint")
    assert run("check", "-f", "shop.yaml", "-f", "-", "--no-hints", stdin=text).output.startswith("nothing found")


def test_without_pods_it_is_said_what_was_not_looked_at(folder: Path) -> None:
    assert "not looked at: whom policies select" in run("check", "-f", "policies").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "-f", "nowhere.yaml"), "nowhere.yaml: No such file"),
        (("check", "-f", "policies/more/.."), ""),
        (("check", "-f", "policies/notes.txt"), "policies/notes.txt:"),
        (("check", "-f", "https://example.com/x.yaml"), "only files are read"),
        (("check", "-f", "empty"), "no file there ends in .yaml, .yml, .json (-R looks into its folders as well)"),
        (("check", "-f", "shop.yaml", "--context", "x"), "choose files, or a cluster"),
        (("can", "-f", "shop.yaml", "shop/nobody", "shop/api:1"), "there is no pod shop/nobody"),
        (("can", "-f", "shop.yaml", "shop/front", "shop/api"), "say the port"),
        (("test", "-f", "shop.yaml", "policies/api.yaml"), "no tests there"),
    ],
)
def test_bad_usage(folder: Path, words: tuple[str, ...], said: str) -> None:
    Path("empty").mkdir()
    done = run(*words)
    assert done.exit_code == (2 if said else 0) and said in done.output


def test_manifests_that_lost_their_indentation(folder: Path) -> None:
    text = (
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n    name: allow-tcp-6379\n    namespace: production\n"
    )
    done = run("check", "-f", "-", stdin=text)
    assert done.exit_code == 2
    assert "-:3: not YAML" in done.output and "Put `metadata:` on a line of its own" in done.output


def test_can(folder: Path) -> None:
    files = ("-f", "shop.yaml", "-f", "policies")
    yes = run("can", *files, "shop/front", "svc/shop/api:80")
    assert yes.exit_code == 0
    assert yes.output == (
        "allowed: shop/front (10.244.1.2) → shop/api (10.244.2.2):9090/TCP, by svc/shop/api\n"
        "  egress of shop/front: allowed\n"
        "    no policy governs the pod\n"
        "  ingress of shop/api: allowed\n"
        "    Allow by NetworkPolicy shop/api ingress[0]   policies/api.yaml:4\n"
    )
    no = run("can", *files, "default/guest", "shop/api:9090", "-o", "json")
    (answer,) = json.loads(no.output)
    assert (no.exit_code, answer["allowed"], answer["egress"]["allowed"]) == (1, False, True)
    assert answer["ingress"]["tiers"] == [{"tier": "default", "policy": "", "rule": "default", "action": "Deny"}]


def test_test(folder: Path) -> None:
    Path("tests.yaml").write_text(
        "tests:\n"
        "- {from: shop/front, to: shop/api, port: http, expect: allow, by: api}\n"
        "- {name: guests stay out, from: default/guest, to: shop/api, port: http, expect: allow}\n"
    )
    done = run("test", "tests.yaml", "-f", "shop.yaml", "-f", "policies", "--junit", "report.xml")
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "ok     shop/front → shop/api:http: allow",
        "FAILED guests stay out   tests.yaml:3",
        "       default/guest → shop/api:9090/TCP is denied: "
        "ingress: governed by NetworkPolicy shop/api; no rule matches",
        "",
        "2 tests, 1 failed",
    ]
    assert 'failures="1"' in Path("report.xml").read_text()


def test_tests_and_objects_in_one_file(folder: Path) -> None:
    text = SHOP + "---\n" + FRONT_ONLY + "---\ntests: [{from: shop/front, to: api.shop, port: 80, expect: allow}]\n"
    Path("all.yaml").write_text(text)
    assert run("test", "all.yaml").output.endswith("1 test, 0 failed\n")


@pytest.mark.parametrize("verb", ["", "check", "can", "matrix", "diff", "test"])
def test_help_has_examples(verb: str) -> None:
    done = run(*filter(None, [verb, "--help"]))
    assert done.exit_code == 0 and done.output.count(f"podwire policy {verb}".rstrip()) >= 3


def test_matrix(folder: Path) -> None:
    files = ("-f", "shop.yaml", "-f", "policies")
    done = run("matrix", *files, "--ports", "TCP/9090,UDP/53")
    assert done.output.splitlines() == [
        "                  1  2  3",
        "1  default/guest  \\ ·· ab",
        "2  shop/api      ab  \\ ab",
        "3  shop/front    ab a·  \\",
        "",
        "rows connect to columns: a TCP/9090, b UDP/53 allowed; · denied; \\ itself",
        "3 pods",
    ]
    rows = json.loads(run("matrix", *files, "--ports", "TCP/9090", "-o", "json").output)
    assert [row for row in rows if not row["allowed"]] == [
        {
            "from": "default/guest",
            "to": "shop/api",
            "protocol": "TCP",
            "port": 9090,
            "ingress": False,
            "egress": True,
            "allowed": False,
            "rule": "end of tier default",
        }
    ]
    assert yaml.safe_load(run("matrix", *files, "--ports", "TCP/9090", "-o", "yaml").output) == rows
    assert run("matrix", *files, "-n", "default").output.endswith("\n1 pod\n")
    assert run("matrix", *files, "--ports", "FOO").exit_code == 2
    assert run("matrix", "-f", "policies").exit_code == 2


def test_a_matrix_in_a_narrow_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "25")
    lines = run("matrix", "-f", "shop.yaml").output.splitlines()
    grid = lines[: lines.index("", 6)]
    assert max(map(len, grid)) <= 25
    assert [line.split() for line in (grid[0], grid[5])] == [["1", "2"], ["3"]]


def test_a_matrix_of_groups(folder: Path) -> None:
    assert run("matrix", "-f", "shop.yaml", "--groups").output.splitlines()[-1] == "3 pods in 2 groups"
    rows = json.loads(run("matrix", "-f", "shop.yaml", "--groups", "-o", "json").output)
    assert {tuple(row["from"]) for row in rows} == {("default/guest", "shop/api"), ("shop/front",)}


def test_diff(folder: Path) -> None:
    same = run("diff", "-f", "shop.yaml", "policies/api.yaml", "policies/api.yaml")
    assert (same.exit_code, same.output.splitlines()[0][:28]) == (0, "no connection differs (8 end")
    Path("new.yaml").write_text(FRONT_ONLY.replace("app: front", "app: guest").replace("port: http", "port: 9090"))
    done = run("diff", "-f", "shop.yaml", "policies/api.yaml", "new.yaml")
    assert done.exit_code == 1
    assert done.output.splitlines()[:6] == [
        "now denied  TCP 9090 (IPv4)",
        "  from shop/front",
        "  to   shop/api",
        "  e.g. shop/front (10.244.1.2) → shop/api (10.244.2.2):9090/TCP",
        "       before: allowed, Allow by NetworkPolicy shop/api ingress[0]   policies/api.yaml:4",
        "       after:  denied, governed by NetworkPolicy shop/api; no rule matches",
    ]
    found = json.loads(run("diff", "-f", "shop.yaml", "policies/api.yaml", "new.yaml", "-o", "json").output)
    assert [(one["change"], one["protocol"], one["ports"]) for one in found["changes"]] == [
        ("denied", "TCP", [[9090, 9090]])
    ]


def test_diff_on_top_of_what_there_is(folder: Path) -> None:
    done = run("diff", "-f", "shop.yaml", "policies/api.yaml")
    assert "now denied  everything but TCP 9090" in done.output and "now denied  everything (IPv4)" in done.output
    assert run("diff", "policies", "policies", "policies").exit_code == 2
    assert "between whom" in run("diff", "-f", "policies", "policies/api.yaml", "policies/api.yaml").output
