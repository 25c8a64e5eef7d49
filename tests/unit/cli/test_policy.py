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
        "       expected allow: default/guest → shop/api:9090/TCP is denied: "
        "ingress: governed by NetworkPolicy shop/api; no rule matches",
        "",
        "2 tests, 1 failed",
    ]
    assert 'failures="1"' in Path("report.xml").read_text()


def test_tests_and_objects_in_one_file(folder: Path) -> None:
    text = SHOP + "---\n" + FRONT_ONLY + "---\ntests: [{from: shop/front, to: api.shop, port: 80, expect: allow}]\n"
    Path("all.yaml").write_text(text)
    assert run("test", "all.yaml").output.endswith("1 test, 0 failed\n")


@pytest.mark.parametrize("verb", ["", "check", "can", "test"])
def test_help_has_examples(verb: str) -> None:
    done = run(*filter(None, [verb, "--help"]))
    assert done.exit_code == 0 and done.output.count(f"podwire policy {verb}".rstrip()) >= 3
