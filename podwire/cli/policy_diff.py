"""`podwire policy diff`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

import click

from podwire.cli.errors import BadInput, reported
from podwire.cli.output import output_option, show
from podwire.cli.policy_scene import manifests, scene_of, scene_options
from podwire.observe.policydiff import ALLOWED, DENIED, Change, Difference, Example, difference
from podwire.observe.policyparts import is_policy
from podwire.observe.policyquestions import QuestionError, Said
from podwire.observe.policyscene import Scene, number, over

_SHOWN = 4
_ICMP = ("ICMP", "ICMPv6")


@click.command("diff")
@click.argument("old_and_new", metavar="[OLD] NEW", nargs=-1, required=True)
@scene_options
@output_option
def diff_policies(
    old_and_new: tuple[str, ...], files: tuple[str, ...], recursive: bool, kubeconfig: str, context: str, form: str
) -> None:
    """Which connections become allowed or denied by going from OLD to NEW: all of them, each with an example.

    OLD and NEW are files or folders. With NEW alone, OLD is what there is (-f, or the cluster), and NEW is applied on
    top of it. Pods, namespaces and whatever else both have in common come with -f, or from the cluster if no file has a
    Pod. Exits with 1 when anything differs.

    \b
    podwire policy diff new.yaml                          what if I applied this to the cluster?
    podwire policy diff -f world.json new.yaml            the same, on files
    podwire policy diff -f pods.yaml old/ new/            two versions of the policies
    git show HEAD~1:policies.yaml | podwire policy diff -f pods.yaml - policies.yaml
    """
    with reported():
        old, new = _scenes(old_and_new, files, recursive, kubeconfig, context)
    try:
        found = difference(old, new)
    except QuestionError as error:
        raise BadInput(str(error)) from None
    show(found, form, lambda: told(found))
    if found.changes:
        raise SystemExit(1)


def _scenes(
    words: tuple[str, ...], files: tuple[str, ...], recursive: bool, kubeconfig: str, context: str
) -> tuple[Scene, Scene]:
    if len(words) > 2:
        raise click.UsageError("OLD and NEW, or NEW alone; more files of what both have in common come with -f")
    *before, after = [manifests((word,), recursive=recursive) for word in words]
    if not before:
        base, _ = scene_of(files, recursive, kubeconfig, context)
        return base, Scene(over(base.manifests, after))
    pods = any(one.object["kind"] == "Pod" for one in (*before[0], *after))
    if files or not pods:
        base, where = scene_of(files, recursive, kubeconfig, context)
        if where is not None:  # both versions come from files; the cluster has the pods
            base = Scene(tuple(one for one in base.manifests if not is_policy(one.object)))
    else:
        base = Scene(())
    found = Scene(over(base.manifests, before[0])), Scene(over(base.manifests, after))
    if not any(scene.ported for scene in found):
        raise BadInput("no pod with an address in OLD, NEW or -f: between whom should connections differ?")
    return found


def told(found: Difference) -> str:
    """Each change, then how much was compared."""
    width = min(120, shutil.get_terminal_size((100, 40)).columns)
    parts = [paragraph(alike, width, both=len(found.families) > 1) for alike in together(found.changes)]
    if found.gone:
        parts.append(f"only in OLD, not compared: {_some(found.gone, 8)}")
    if found.come:
        parts.append(f"only in NEW, not compared: {_some(found.come, 8)}")
    counts = [sum(alike[0].change == word for alike in together(found.changes)) for word in (ALLOWED, DENIED)]
    end = f"{counts[0]} allowed, {counts[1]} denied" if found.changes else "no connection differs"
    among = f"{number(found.ends, 'end')} in {number(found.groups, 'group')}"
    return "\n\n".join([*parts, f"{end} ({among}, every protocol and port)"])


def together(changes: Iterable[Change]) -> list[list[Change]]:
    """Those of the same ends, whatever their protocols."""
    found: dict[tuple[object, ...], list[Change]] = {}
    for one in changes:
        found.setdefault((one.change, one.sources, one.destinations, one.source_ports, one.families), []).append(one)
    return list(found.values())


def paragraph(alike: list[Change], width: int, *, both: bool) -> str:
    """What, who, and an example; the family where there are both."""
    one = alike[0]
    word = "now allowed" if one.change == ALLOWED else "now denied"
    head = click.style(word, fg="green" if one.change == ALLOWED else "red", bold=True)
    about = what(alike)
    if one.source_ports:
        about += f", from source port {_range(*one.source_ports)}"
    if both and len(one.families) == 1:
        about += f" ({one.families[0]})"
    lines = [f"{head}  {about}"]
    for title, names in (("from", one.sources), ("to  ", one.destinations)):
        text = _some(names, _SHOWN)
        lines += textwrap.wrap(
            text, width, initial_indent=f"  {title} ", subsequent_indent=" " * 7, break_on_hyphens=False
        )
    return "\n".join([*lines, *_example(alike[-1].example)])


def what(alike: list[Change]) -> str:
    """Protocols and ports: those that are, or where that is shorter those that are not."""
    told = {one.protocol: one.ports for one in alike}
    if "" not in told:
        return "; ".join(_ports(protocol, ports) for protocol, ports in told.items())
    but = next(one.but for one in alike if not one.protocol)
    left = ((protocol, _others(told.get(protocol, ()))) for protocol in but)
    texts = [_ports(protocol, ports) for protocol, ports in left if ports]
    return f"everything but {'; '.join(texts)}" if texts else "everything"


def _others(ports: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The gaps between ranges that are in order."""
    edges = [-1, *(edge for ports_ in ports for edge in ports_), 65_536]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((last + 1, first - 1) for last, first in pairs if last + 1 < first)


def _ports(protocol: str, ports: tuple[tuple[int, int], ...]) -> str:
    if ports == ((0, 65_535),):
        return protocol
    if protocol in _ICMP:
        return f"{protocol} {', '.join(_icmp(*each) for each in ports)}"
    return f"{protocol} {', '.join(_range(*each) for each in ports)}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _icmp(first: int, last: int) -> str:
    if first & 255 == 0 and last & 255 == 255:
        return f"type {_range(first >> 8, last >> 8)}"
    end = f" to {last >> 8}/{last & 255}" if last > first else ""
    return f"type {first >> 8} code {first & 255}{end}"


def _some(names: tuple[str, ...], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _example(one: Example) -> list[str]:
    port = f":{one.port}" if one.protocol not in _ICMP and one.port else ""
    source, destination = (
        name if name == address else f"{name} ({address})"
        for name, address in ((one.source, one.source_address), (one.destination, one.destination_address))
    )
    lines = [f"  e.g. {source} → {destination}{port}/{one.protocol}"]
    lines += [f"       {_side(name, side)}" for name, side in (("before:", one.old), ("after: ", one.new))]
    if not one.confirmed:
        lines.append("       the oracle does not confirm this: please report it as a bug of Podwire")
    return lines


def _side(name: str, side: Said) -> str:
    where = f"   {side.where}" if side.where else ""
    return f"{name} {'allowed' if side.allowed else 'denied'}, {side.reason}{where}"
