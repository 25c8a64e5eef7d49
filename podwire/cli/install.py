"""`podwire install` and `podwire uninstall`: Podwire onto a genuine cluster, and off it again."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podwire.cli.connect import cluster_options

if TYPE_CHECKING:
    from podwire.install.options import Options


@click.command()
@click.option(
    "--dry-run", is_flag=False, flag_value="all", metavar="[pool]",
    help="Print the manifests, change nothing, speak to no cluster. `pool`: those of the address pool, for clusters"
    " without one, to be applied when its kind is served.",
)  # fmt: skip
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE",
    help="namespace, image, pull-policy, pod-cidr, block-size, encapsulation (Always, CrossSubnet, Never), mtu,"
    " api-server, policy-enforce, classic.",
)  # fmt: skip
@click.option("--values", type=Path, metavar="FILE", help="The same as a YAML file; --set wins.")
@click.option("--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds to wait for nodes.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the agents are ready.")
@click.option("--force", is_flag=True, help="Install though another pod network's agents run.")
@cluster_options
def install(
    dry_run: str | None,
    pairs: tuple[str, ...],
    values: Path | None,
    timeout: int,
    no_wait: bool,
    force: bool,
    kubeconfig: str,
    context: str,
) -> None:
    """Install Podwire on a Kubernetes cluster, or bring an installed one to this version.

    Resource kinds, roles and the DaemonSet are applied (server-side); each node's agent puts the CNI plugin in place
    when it can serve pods, and sets other plugins' configurations aside. The image is yours to build and push
    (deploy/Containerfile); --set image=… names it.

    \b
    podwire install --dry-run | less
    podwire install --set image=registry.example.org/podwire:0.1.0 --set pod-cidr=10.244.0.0/16
    podwire install --dry-run | kubectl apply --server-side -f -       with kubectl's own credentials, then
    podwire install --dry-run pool | kubectl apply --server-side -f -
    """
    from podwire.install import manifests
    from podwire.install.options import OptionError

    try:
        options = _options(pairs, values)
        objects = manifests.everything(options)
        if dry_run is not None and dry_run not in ("all", "pool"):
            raise click.UsageError(f"--dry-run {dry_run}: neither alone nor with `pool`")
        if dry_run is not None:
            click.echo(
                manifests.text([manifests.pool(options), *manifests.tiers()] if dry_run == "pool" else objects),
                nl=False,
            )
            return
    except OptionError as error:
        raise click.UsageError(str(error)) from None
    _apply(options, kubeconfig, context, force=force, seconds=0 if no_wait else timeout)


@click.command()
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="As of the install: namespace, classic, image."
)
@click.option("--values", type=Path, metavar="FILE", help="The same as a YAML file; --set wins.")
@click.option("--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds to wait for nodes.")
@click.option("--purge", is_flag=True, help="Also the resource kinds, with every pool and address stored under them.")
@click.option(
    "--clean", is_flag=False, flag_value="unused", metavar="[all]",
    help="Also what nodes' kernels have of Podwire's, where no pod uses it any more. `all`: everywhere; pods that run"
    " lose their network.",
)  # fmt: skip
@cluster_options
def uninstall(
    pairs: tuple[str, ...],
    values: Path | None,
    timeout: int,
    purge: bool,
    clean: str | None,
    kubeconfig: str,
    context: str,
) -> None:
    """Take Podwire off a cluster: agents, then each node's CNI files, then rights and settings.

    Nodes turn NotReady, or another network's as it was before. Pods that run keep their network until they end; when
    all of them have been made anew on another network (or were drained before), --clean removes what is left in the
    nodes' kernels, which otherwise a boot does. The pools and addresses on the API stay (--purge).

    \b
    podwire uninstall
    podwire uninstall --clean --set image=registry.example.org/podwire:0.1.0     later, when the pods are new
    podwire uninstall --purge --clean all                                        all of it, at once
    """
    from podwire.cli.connect import target
    from podwire.install import remove as page
    from podwire.install.options import OptionError, check
    from podwire.kube.client import Client

    if clean not in (None, "unused", "all"):
        raise click.UsageError(f"--clean {clean}: neither alone nor with `all`")
    try:
        options = _options(pairs, values)
        check(options)
    except OptionError as error:
        raise click.UsageError(str(error)) from None
    found = target(kubeconfig, context)

    async def work() -> None:
        client = Client(found.cluster, user_agent="podwire-uninstall")
        try:
            await page.remove(client, options, click.echo, timeout, purge=purge, clean=clean or "")
        finally:
            await client.close()

    _run(work(), found.source)


def _options(pairs: tuple[str, ...], values: Path | None) -> Options:
    """Raises OptionError, UsageError."""
    import yaml

    from podwire.install.options import chosen

    texts: dict[str, str] = {}
    if values is not None:
        try:
            found = yaml.safe_load(values.read_text()) or {}
        except OSError as error:
            raise click.UsageError(f"{values}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{values}: not YAML: {error}") from None
        if not isinstance(found, dict):
            raise click.UsageError(f"{values}: not a mapping of options")
        texts = {str(name).replace("_", "-"): str(value) for name, value in found.items()}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--set {pair}: not NAME=VALUE")
        texts[name.replace("_", "-")] = value
    return chosen(texts)


def _apply(options: Options, kubeconfig: str, context: str, *, force: bool, seconds: int) -> None:
    from dataclasses import replace

    from podwire.cli.connect import target
    from podwire.install import apply as page
    from podwire.kube.client import Client

    found = target(kubeconfig, context)

    async def work() -> None:
        client = Client(found.cluster, user_agent="podwire-install")
        try:
            if not force:
                await page.refuse_second_network(client)
            wanted = options
            if not options.classic and await page.classic(client):
                wanted = replace(options, classic=True)
                click.echo("this cluster keeps its addresses in Calico's older layout: it stays there")
            await page.apply(client, wanted, click.echo)
            if seconds:
                number = await page.wait(client, wanted, click.echo, seconds)
                click.echo(f"Podwire runs on {number} node{'s' if number != 1 else ''}")
        finally:
            await client.close()

    _run(work(), found.source)


def _run(work: Coroutine[Any, Any, None], source: str) -> None:
    """Its refusals in words."""
    import asyncio

    from podwire.install.apply import InstallError
    from podwire.model.api import ApiError

    try:
        asyncio.run(work)
    except (InstallError, ApiError) as error:
        raise click.ClickException(f"{source}: {error}") from None
