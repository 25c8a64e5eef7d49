"""`podwire policy test`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from podwire.cli.errors import BadInput, reported
from podwire.cli.output import output_option, show
from podwire.cli.policy_scene import explained, manifests, scene_of, scene_options
from podwire.observe import junit
from podwire.observe.policycases import Result, cases, run
from podwire.observe.policyquestions import Asked
from podwire.observe.policyscene import Scene, number, over


@click.command("test")
@click.argument("tests", metavar="FILE...", nargs=-1, required=True)
@click.option("--junit", "report", default="", metavar="FILE", help="Write the results as JUnit XML as well.")
@scene_options
@output_option
def test_policies(
    tests: tuple[str, ...],
    report: str,
    files: tuple[str, ...],
    recursive: bool,
    kubeconfig: str,
    context: str,
    form: str,
) -> None:
    """Assertions about policies: who may reach whom, and which policy must say so.

    FILE holds tests, and may hold objects beside them; -f adds more. Without any object the cluster is asked. Exits
    with 1 when an assertion does not hold.

    \b
    podwire policy test tests.yaml -f manifests/
    podwire policy test tests.yaml                         against the cluster
    podwire policy test tests/ -f world.json --junit report.xml

    \b
    A test (from and to may be lists; port may be a name):
      tests:
      - name: the frontend reaches the API
        from: shop/frontend
        to: svc/shop/api
        port: 8080
        expect: allow          # or deny
        by: shop/allow-api     # optional: the policy that must decide; none: nobody
    """
    read = manifests(tests, recursive=recursive, beside="tests")
    with explained():
        wanted = [case for one in read if "kind" not in one.object for case in cases(one)]
    if not wanted:
        raise BadInput(f"{', '.join(tests)}: no tests there. A document with `tests:` holds them (--help shows one)")
    own = [one for one in read if "kind" in one.object]
    began = time.monotonic()
    with reported():
        if own and not files:
            scene = Scene(over((), own))
        else:
            scene, _ = scene_of(files, recursive, kubeconfig, context)
            scene = Scene(over(scene.manifests, own))
    results = run(Asked.of(scene), wanted)
    if report:
        try:
            Path(report).write_text(junit.document(results, seconds=time.monotonic() - began), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--junit {report}: {error.strerror}") from None
    show(results, form, lambda: told(results))
    if not all(one.passed for one in results):
        raise SystemExit(1)


def told(results: list[Result]) -> str:
    """A line for each, more for those that do not hold, and the count."""
    lines = []
    for one in results:
        if one.passed:
            lines.append(f"{click.style('ok', fg='green')}     {one.name}")
            continue
        word = click.style("ERROR " if one.error else "FAILED", fg="red", bold=True)
        lines += [f"{word} {one.name}   {one.where}", f"       {one.problem}"]
    failed = sum(not one.passed for one in results)
    return "\n".join([*lines, "", f"{number(len(results), 'test')}, {failed} failed"])
