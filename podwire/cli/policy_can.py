"""`podwire policy can`."""

from __future__ import annotations

import click

from podwire.cli.errors import BadInput, reported
from podwire.cli.output import output_option, show
from podwire.cli.policy_scene import scene_of, scene_options
from podwire.observe.policyquestions import Answer, Asked, QuestionError, Said, ask

YES, NO = "allowed", "denied"


@click.command("can")
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO:PORT[/PROTOCOL]")
@scene_options
@output_option
def can_connect(
    source: str, destination: str, files: tuple[str, ...], recursive: bool, kubeconfig: str, context: str, form: str
) -> None:
    """May FROM open a connection to TO? Says which policy and rule decide, at both ends.

    FROM and TO are ns/pod, svc/ns/name, node/name, an address, or a Service's DNS name; of a Service, each backend is
    asked. PROTOCOL is TCP (if none is given), UDP, SCTP or ICMP. Exits with 0 when the connection is allowed (to every
    backend), with 1 when it is denied.

    \b
    podwire policy can default/client default/web:80
    podwire policy can default/client svc/default/web:http
    podwire policy can default/client web.default:80
    podwire policy can 203.0.113.9 default/web:443
    podwire policy can default/client 10.96.0.10:53/UDP
    podwire policy can default/client default/web/ICMP
    podwire policy can -f world.json default/client '[fd00::7]:80'
    """
    with reported():
        scene, _ = scene_of(files, recursive, kubeconfig, context)
    try:
        answers = ask(Asked.of(scene), source, destination)
    except QuestionError as error:
        raise BadInput(str(error)) from None
    show(answers, form, lambda: "\n\n".join(told(one) for one in answers))
    if not all(one.allowed for one in answers):
        raise SystemExit(1)


def told(one: Answer) -> str:
    """The verdict, then both ends."""
    port = f":{one.port}" if one.port else ""
    by = f", by {one.by}" if one.by else ""
    verdict = click.style(YES, fg="green", bold=True) if one.allowed else click.style(NO, fg="red", bold=True)
    lines = [
        f"{verdict}: {one.source} ({one.source_address}) → "
        f"{one.destination} ({one.destination_address}){port}/{one.protocol}{by}"
    ]
    lines += _side(f"egress of {one.source}", one.egress)
    lines += _side(f"ingress of {one.destination}", one.ingress)
    return "\n".join(lines)


def _side(title: str, side: Said) -> list[str]:
    word = click.style(YES, fg="green") if side.allowed else click.style(NO, fg="red")
    where = f"   {side.where}" if side.where else ""
    lines = [f"  {title}: {word}", f"    {side.reason}{where}"]
    for step in side.tiers[:-1]:
        who = f"{step.policy} {step.rule}" if step.policy else "at its end"
        lines.insert(-1, f"    tier {step.tier}: {step.action}, {who}")
    if side.tiers and not side.tiers[-1].policy:
        lines[-1] += f" (tier {side.tiers[-1].tier} ends with {side.tiers[-1].action})"
    if side.also:
        lines.append(f"    so says {', '.join(side.also[:3])}{' …' if len(side.also) > 3 else ''} as well")
    return lines
