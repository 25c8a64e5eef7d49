"""Which cluster a command speaks to, and what its refusals mean, in words.

--kubeconfig, else $KUBECONFIG, else ~/.kube/config, as kubectl chooses; where there is none, the lab of this machine.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podwire.lab.state import LabError, LabState, every_lab
from podwire.model.api import ApiError

if TYPE_CHECKING:
    from podwire.kube.client import Client
    from podwire.kube.kubeconfig import Cluster

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

AGENTS = Path("/etc/podwire/kubeconfig")


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster, where we know it from, and the lab of this machine that it is, if it is one."""

    cluster: Cluster
    source: str
    lab: LabState | None


def cluster_options(command: F) -> F:
    """`--kubeconfig FILE --context NAME`."""
    command = click.option("--context", default="", metavar="NAME", help="A context of the kubeconfig.")(command)
    return click.option(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="How to reach the cluster. [default: $KUBECONFIG, ~/.kube/config, or the lab]",
    )(command)


def target(kubeconfig: str = "", context: str = "", *, local: bool = False) -> Target:
    """The cluster that is meant. With `local` a node's own agent's kubeconfig comes before the user's. Raises
    ClickException that says what was looked for."""
    from podwire.kube.kubeconfig import KubeconfigError, load

    try:
        for path in _paths(kubeconfig, local=local):
            if path.exists() or kubeconfig:
                found = load(path, context)
                return Target(found, str(path), _lab_of(found.server))
    except KubeconfigError as error:
        raise click.ClickException(str(error)) from None
    if told := _environment():
        raise click.ClickException(
            f"no cluster: $KUBECONFIG names {', '.join(map(str, told))}, and there is no such file. "
            "`unset KUBECONFIG` lets ~/.kube/config or the lab be chosen; --kubeconfig FILE names another cluster"
        )
    return _only_lab()


def _environment() -> list[Path]:
    """What $KUBECONFIG names."""
    return [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]


def _paths(kubeconfig: str, *, local: bool) -> list[Path]:
    if kubeconfig:
        return [Path(kubeconfig)]
    if told := _environment():
        return told
    return [*([AGENTS] if local else []), Path.home() / ".kube/config"]


def _lab_of(server: str) -> LabState | None:
    """The lab whose API has that address."""
    for state in every_lab():
        try:
            port = state.read_json("port.json").get("port")
        except LabError:
            continue  # damaged; the others may still be found
        if port and server == f"https://127.0.0.1:{port}":
            return state
    return None


def _only_lab() -> Target:
    from podwire.cli.which import lab_state
    from podwire.kube.kubeconfig import parse
    from podwire.lab import kubeconfig as page
    from podwire.lab.up import admin

    try:
        state = lab_state("")
        document = page.document(page.entry_name(state.name), admin(state))
    except LabError as error:
        raise click.ClickException(
            f"no cluster: there is no kubeconfig ($KUBECONFIG, ~/.kube/config) and {error}. "
            "`podwire lab up` brings a lab up; --kubeconfig FILE names another cluster"
        ) from None
    return Target(parse(document, state.directory / "kubeconfig"), f"lab {state.name}", state)


def ask(where: Target, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """The result of `work` with a client of that cluster. Raises ClickException that explains a refusal."""
    from podwire.kube.client import Client
    from podwire.observe.cluster import NoKinds

    async def run() -> T:
        client = Client(where.cluster, user_agent="podwire-cli")
        try:
            return await work(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except ApiError as error:
        raise click.ClickException(explained(error, where)) from None
    except NoKinds:
        raise click.ClickException(
            f"the cluster at {where.cluster.server} ({where.source}) has no IPPools, neither of projectcalico.org/v3 "
            "nor of crd.projectcalico.org/v1: its addresses are not given out by Podwire or Calico. "
            "`kubectl apply -f deploy/crds` brings the kinds; `podwire ipam check --host-local DIR` looks at "
            "host-local's files"
        ) from None


def explained(error: ApiError, where: Target) -> str:
    """A refusal with what it means and the way out."""
    server = f"{where.cluster.server} ({where.source})"
    if error.status == 0:
        return (
            f"no answer from the API at {server}: {error.message}. `podwire lab list` shows the labs of this machine; "
            "--kubeconfig and --context choose another cluster"
        )
    if error.status == 401:
        return f"the API at {server} does not accept these credentials: {error.message}"
    if error.status == 403:
        verb = re.search(r"cannot (\w+) resource", error.message)
        group, plural = error.details.get("group", ""), error.details.get("kind", "")
        resource = f"{plural}.{group}" if group else plural
        missing = f"the verb {verb.group(1)} on {resource}" if verb and resource else "a permission"
        way = ""
        if verb and resource:
            way = (
                f". An administrator grants it by a ClusterRole (kubectl create clusterrole NAME "
                f"--verb={verb.group(1)} --resource={resource}) and a ClusterRoleBinding"
            )
        return f"the API at {server} refuses: {error.message}. {missing} is missing{way}"
    return f"the API at {server} refuses: {error.message}"
