"""`podwire cni install`, `uninstall` and `list`: the plugin's files on one node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podwire.cli.output import columns, output_option, show

if TYPE_CHECKING:
    from podwire.cni.install import Places, Plan

F = TypeVar("F", bound=Callable[..., Any])


def places_options(command: F) -> F:
    """Where the runtime looks."""
    conf = click.option("--conf-dir", type=Path, default="/etc/cni/net.d", show_default=True, help="Configurations.")
    programs = click.option("--bin-dir", type=Path, default="/opt/cni/bin", show_default=True, help="Plugins.")
    state = click.option(
        "--state-dir", type=Path, default="/var/lib/podwire", show_default=True, help="The agent's records and spool."
    )
    return conf(programs(state(command)))


@click.group()
def cni() -> None:
    """The CNI plugin's files on this node: its configuration and its executables.

    A container runtime reads the lexically first file of /etc/cni/net.d and runs the plugins it names from
    /opt/cni/bin. Podwire's plugin only forwards to the agent (`podwire agent`), which puts these files in place by
    itself when it is ready to serve pods; these commands are for doing it by hand, in another shape, or undoing it.

    \b
    podwire cni list
    podwire cni install --dry-run
    podwire cni uninstall
    """


@cni.command()
@click.option(
    "--wiring", type=click.Choice(["routed", "bridge"]), default="routed", show_default=True,
    help="routed: host routes to each pod, Calico's shape. bridge: ports of cbr0, kubenet's.",
)  # fmt: skip
@click.option("--mtu", type=click.IntRange(576, 65535), default=1450, show_default=True, help="MTU of pods.")
@click.option(
    "--subnet", "subnets", multiple=True, metavar="CIDR",
    help="Give addresses from this node's own subnet (host-local) in place of cluster-wide blocks; one of each family.",
)  # fmt: skip
@click.option(
    "--chained", is_flag=False, flag_value="auto", metavar="[FILE]",
    help="Stand behind the plugins of FILE (default: the first other configuration): they wire, Podwire admits.",
)  # fmt: skip
@click.option(
    "--replace-reference", is_flag=True,
    help="Also serve portmap, bandwidth, loopback and host-local where others' are; uninstall puts those back.",
)  # fmt: skip
@places_options
@click.option("--cache", default="", metavar="DIR", help="Where the plugin is built. [default: Podwire's cache]")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
def install(
    wiring: str,
    mtu: int,
    subnets: tuple[str, ...],
    chained: str | None,
    replace_reference: bool,
    conf_dir: Path,
    bin_dir: Path,
    state_dir: Path,
    cache: str,
    dry_run: bool,
) -> None:
    """Put executables into /opt/cni/bin, then the configuration 05-podwire.conflist into /etc/cni/net.d.

    Every file appears whole, and what is right already is left alone. Programs of the reference plugins' names are
    served, too, where there are none.

    \b
    podwire cni install                                     routed, addresses from blocks
    podwire cni install --wiring bridge --subnet 10.244.3.0/24
                                                            kubenet's shape, addresses of this node
    podwire cni install --chained                           behind the plugin that is there (flannel, say)
    podwire cni install --replace-reference --dry-run       what would happen to other plugins' files
    """
    from podwire.cni import install as page
    from podwire.cni.listing import ListingError

    places = _places(conf_dir, bin_dir, state_dir)
    try:
        text = _text(wiring, mtu, subnets, chained, places)
        plan = page.plan_install(_shim(cache), text, places, replace=replace_reference)
    except ListingError as error:
        raise click.ClickException(str(error)) from error
    _do(plan, places, dry_run, "installed")
    for path in plan.foreign:
        click.echo(f"left alone: {path} is not Podwire's (--replace-reference replaces it, and keeps it)", err=True)
    for path in page.other_lists(places):
        if path.name < page.CONFLIST:
            click.echo(f"note: runtimes take {path} first: remove or rename it to use Podwire", err=True)


def _text(wiring: str, mtu: int, subnets: tuple[str, ...], chained: str | None, places: Places) -> str:
    """The configuration list. Raises ListingError."""
    import ipaddress

    from podwire.cni import install, listing

    if chained is None:
        for subnet in subnets:
            try:
                ipaddress.ip_network(subnet)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="--subnet") from None
        ipam = listing.host_local(subnets) if subnets else listing.BLOCKS
        return listing.conflist(listing.Entry(mtu, wiring, ipam))
    if subnets or wiring != "routed":
        raise click.UsageError("--chained leaves wiring and addresses to the other plugin: no --wiring, no --subnet")
    found = install.other_lists(places) if chained == "auto" else [Path(chained)]
    if not found:
        raise listing.ListingError(f"{places.conf_dir} holds no other configuration to stand behind")
    text = install.read(found[0])
    if text is None:
        raise listing.ListingError(f"{found[0]} cannot be read")
    return listing.appended(text, str(found[0]))


@cni.command()
@click.option("--wait", type=click.IntRange(0), default=0, metavar="SECONDS", help="Wait for the last attachment.")
@click.option("--force", is_flag=True, help="Remove the executables though attachments are left.")
@click.option(
    "--clean", is_flag=False, flag_value="unused", metavar="[all]",
    help="Also what the kernel and the state folder hold of Podwire's, unless pods still use it. `all`: even then; they"
    " lose their network.",
)  # fmt: skip
@click.option("--hold", is_flag=True, help="Then wait for SIGTERM: for pods that do this on every node.")
@click.option("--tell", type=Path, metavar="FILE", help="Write what --clean had to leave to FILE, and exit with 0.")
@places_options
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
def uninstall(
    wait: int,
    force: bool,
    clean: str | None,
    hold: bool,
    tell: Path | None,
    conf_dir: Path,
    bin_dir: Path,
    state_dir: Path,
    dry_run: bool,
) -> None:
    """Remove the files again, in the order that ends the node's network cleanly; other plugins' files stay.

    The configuration goes first: the runtime reports its network as not ready, the node turns NotReady and gets no new
    pods. Pods that run keep their network, and the runtime still calls the executables when they end: so these stay,
    with exit code 1, while attachments are left. Drain the node and call again; or --wait; or --force, after which pods
    that end hang in Terminating until a plugin is there again.

    --clean is for a node whose agent has ended: pods' host ends, the tunnel's device, routes, tables and the agent's
    records go, as if the node had booted anew.

    \b
    podwire cni uninstall
    kubectl drain NODE --ignore-daemonsets && podwire cni uninstall --wait 60 --clean
    """
    import signal
    import sys
    import time

    from podwire.cni import install as page

    if clean not in (None, "unused", "all"):
        raise click.UsageError(f"--clean {clean}: neither alone nor with `all`")
    places = _places(conf_dir, bin_dir, state_dir)
    first, _ = page.plan_uninstall(places)
    _do(first, places, dry_run, "removed")
    end = time.monotonic() + wait
    while (left := page.attachments_left(places)) and not force and not dry_run and time.monotonic() < end:
        time.sleep(0.2)
    if left and not force:
        click.echo(
            f"{left} attachments are left: {places.bin_dir / 'podwire'} stays, as the runtime needs it when their pods"
            " end. Drain the node and run this again, or use --force.",
            err=True,
        )
        raise SystemExit(1)
    _, rest = page.plan_uninstall(places)
    _do(rest, places, dry_run, "removed")
    for path in rest.foreign:
        click.echo(f"left alone: {path} is not Podwire's", err=True)
    if clean is not None and (why := _clean(places, dry_run, everything=clean == "all")):
        click.echo(why, err=True)
        if tell is None:
            raise SystemExit(1)
        tell.write_text(why)
    if hold:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()


def _clean(places: Places, dry_run: bool, *, everything: bool) -> str:
    """Why nothing of it was done; empty when it was."""
    from podwire.agent import wipe
    from podwire.kernel.links import RouteSocket
    from podwire.kernel.netlink import KernelError

    try:
        with RouteSocket() as socket:
            used = wipe.users(places, socket)
            if used and not everything:
                named = ", ".join(used[:5]) + (" …" if len(used) > 5 else "")
                return (
                    f"{len(used)} pods still use Podwire's wiring ({named}): end or restart them and clean again, or"
                    " --clean all, which takes their network away"
                )
            for what in () if dry_run else wipe.wipe(places, socket):
                click.echo(f"removed {what}")
            if dry_run:
                click.echo("would remove pods' host ends, bridges, the tunnel, routes, tables and records")
    except wipe.WipeError as error:
        return str(error)
    except (KernelError, OSError) as error:
        raise click.ClickException(f"cleaning this node: {error}") from error
    return ""


@cni.command("list")
@places_options
@output_option
def list_files(conf_dir: Path, bin_dir: Path, state_dir: Path, form: str) -> None:
    """Which of the files are in place, and whose they are; exits with 1 when Podwire's own are not.

    \b
    podwire cni list
    podwire cni list -o json
    """
    from podwire.cni import install as page

    rows = page.look(_places(conf_dir, bin_dir, state_dir))
    table = [(row.name, row.state, row.path, row.note) for row in rows]
    show(rows, form, lambda: columns(("NAME", "WHOSE", "PATH", "NOTE"), table))
    if any(row.state != "podwire" for row in rows if row.name in ("configuration", *page.OWN)):
        raise SystemExit(1)


def _places(conf_dir: Path, bin_dir: Path, state_dir: Path) -> Places:
    from podwire.cni.install import Places

    return Places(conf_dir, bin_dir, spool=state_dir / "cni-spool")


def _shim(cache: str) -> bytes:
    from podwire.cni.build import ShimError, build
    from podwire.lab.state import cache_root

    try:
        return build(Path(cache) if cache else cache_root()).read_bytes()
    except (ShimError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _do(plan: Plan, places: Places, dry_run: bool, done: str) -> None:
    from podwire.cni import install as page

    if dry_run:
        for step in plan.steps:
            click.echo(f"would {step.words}")
        return
    try:
        for path in page.apply(plan, places):
            click.echo(f"{done} {path}")
    except OSError as error:
        raise click.ClickException(f"{error.filename or places.bin_dir}: {error.strerror}") from error
