"""Kubeconfig files: texts for the lab's own clients, and the entry `podwire-NAME` in the user's file.

The user's file is merged, never rewritten from scratch: other entries and keys we do not know stay as they are.
Changes happen under a lock on its directory and replace the file in one step.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from podwire.lab.state import LabError

_LISTS = ("clusters", "contexts", "users")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach an API: its address, and PEM texts of the authority, the client's certificate and key."""

    server: str
    authority: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Before:
    """What the user's file looked like before we came, so that leaving can restore it."""

    path: str
    existed: bool
    context: str


def entry_name(lab: str) -> str:
    """The context's, cluster's and user's name for a lab."""
    return f"podwire-{lab}"


def user_path() -> Path:
    """The file kubectl would write to: the first of $KUBECONFIG, else ~/.kube/config."""
    for part in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        if part:
            return Path(part).absolute()
    return Path.home() / ".kube/config"


def document(name: str, credentials: Credentials) -> dict[str, Any]:
    """A kubeconfig with one cluster, user and context of that name."""
    cluster = {"server": credentials.server, "certificate-authority-data": _base64(credentials.authority)}
    user = {
        "client-certificate-data": _base64(credentials.certificate),
        "client-key-data": _base64(credentials.key),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def _base64(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def text(value: dict[str, Any]) -> str:
    """A kubeconfig as YAML."""
    return str(yaml.dump(value, Dumper=_DUMPER, sort_keys=False, default_flow_style=False))


def merged(there: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """`there` with our three entries put in (or brought up to date) and our context current."""
    result = {"apiVersion": "v1", "kind": "Config", **there}
    for section in _LISTS:
        new = ours[section][0]
        entries = list(result.get(section) or [])
        places = [index for index, entry in enumerate(entries) if _name(entry) == new["name"]]
        if places:
            entries[places[0]] = new
        else:
            entries.append(new)
        result[section] = entries
    result["current-context"] = ours["current-context"]
    return result


def without(there: dict[str, Any], name: str, previous: str) -> dict[str, Any]:
    """`there` without our entries; if ours is the current context, `previous` is again (if it still exists)."""
    result = dict(there)
    for section in _LISTS:
        if section in result:
            result[section] = [entry for entry in result[section] or [] if _name(entry) != name]
    if result.get("current-context") == name:
        known = {_name(entry) for entry in result.get("contexts") or []}
        result["current-context"] = previous if previous in known else ""
    return result


def is_bare(value: dict[str, Any]) -> bool:
    """Whether nothing of anybody is left in it."""
    known = {"apiVersion", "kind", "preferences", "current-context", *_LISTS}
    return not any(value.get(section) for section in _LISTS) and set(value) <= known and not value.get("preferences")


def _name(entry: Any) -> str:
    return str(entry.get("name", "")) if isinstance(entry, dict) else ""


def install(lab: str, credentials: Credentials, path: Path | None = None) -> Before | None:
    """Merge the lab into the user's file and make it current. None when it was there already, just so."""
    path = path or user_path()
    with _exclusive(path):
        existed, there = _load(path)
        ours = document(entry_name(lab), credentials)
        result = merged(there, ours)
        if result == there:
            return None
        _store(path, result)
        return Before(str(path), existed, str(there.get("current-context") or ""))


def check() -> None:
    """Raise LabError when the user's file cannot be read as a kubeconfig."""
    _load(user_path())


def uninstall(lab: str, before: Before) -> None:
    """Take the lab out of the user's file again; a file that we made and that is bare now goes away."""
    path = Path(before.path)
    if not path.exists():
        return
    with _exclusive(path):
        _, there = _load(path)
        result = without(there, entry_name(lab), before.context)
        if not before.existed and is_bare(result):
            path.unlink()
            with contextlib.suppress(OSError):
                if path.parent.name == ".kube":
                    path.parent.rmdir()
        elif result != there:
            _store(path, result)


def _load(path: Path) -> tuple[bool, dict[str, Any]]:
    try:
        value = yaml.load(path.read_text(), Loader=_LOADER)
    except FileNotFoundError:
        return False, {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is not a kubeconfig ({error}); it was left as it is") from None
    if value is None:
        return True, {}
    if not isinstance(value, dict):
        raise LabError(f"{path} is not a kubeconfig; it was left as it is")
    return True, value


def _store(path: Path, value: dict[str, Any]) -> None:
    target = path.resolve()  # a link to the file stays a link
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    mode = 0o600
    if target.exists():
        mode = target.stat().st_mode & 0o777
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text(value))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock on the file's directory, which leaves no lock file behind."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
