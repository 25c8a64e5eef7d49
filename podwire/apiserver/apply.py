"""Server-side apply, and the managedFields of every other write.

`apply` merges a configuration into the live object, lets the applier own what it states, removes what it stated last
time and nobody owns any more, and refuses to overwrite what others own. `track_update` moves the ownership of fields
that a create, update or patch changed. Both are pure: time arrives as an argument.
Source: KEP-555 and the behaviour of apimachinery's managedfields and structured-merge-diff.
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.fields import Schema
from podwire.apiserver.ownership import (
    FREE,
    MEMBER,
    ListKeyError,
    Tree,
    below,
    compare,
    difference,
    element,
    everything,
    from_fields,
    indexed,
    intersection,
    owned,
    paths,
    readable,
    shape,
    to_fields,
    union,
    with_named_parents,
    without,
    written,
)
from podwire.apiserver.zeros import only_news

Object = dict[str, Any]
Identity = tuple[str, str, str, str]  # manager, operation, apiVersion ('' for Apply), subresource
BEFORE_FIRST_APPLY = "before-first-apply"
_ANCIENT = "ancient-changes"
_MAX_UPDATERS = 10
_UNTRACKED_META = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
)

_UNTRACKED = frozenset((MEMBER, *("f:" + name for name in _UNTRACKED_META)))


class ApplyError(ValueError):
    """The configuration cannot be applied (bad keys, managedFields set): 400 or 422 by `status`."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class ApplyConflict(Exception):
    """Other managers own fields that the configuration would change; `conflicts` holds (manager, path)."""

    def __init__(self, conflicts: list[tuple[str, str]]) -> None:
        self.conflicts = conflicts
        super().__init__(_conflict_text(conflicts))

    @property
    def causes(self) -> list[Object]:
        """The causes of the Status that answers 409."""
        return [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, path in self.conflicts
        ]


def _conflict_text(conflicts: list[tuple[str, str]]) -> str:
    if len(conflicts) == 1:
        manager, path = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {manager}: {path}"
    parts = []
    for manager in sorted({manager for manager, _ in conflicts}):
        lines = "\n".join(f"- {path}" for who, path in conflicts if who == manager)
        parts.append(f"conflicts with {manager}:\n{lines}")
    return f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(parts)


class _Owners:
    """The managedFields of an object, taken apart: who owns which paths since when."""

    def __init__(self, entries: list[Object] | None) -> None:
        self.trees: dict[Identity, Tree] = {}
        self.times: dict[Identity, str] = {}
        self.versions: dict[Identity, str] = {}
        for entry in entries or []:
            who = _identity(
                entry.get("manager", ""),
                entry.get("operation", ""),
                entry.get("apiVersion", ""),
                entry.get("subresource", ""),
            )
            self.trees[who] = union(self.trees.get(who, {}), from_fields(entry.get("fieldsV1")))
            self.times[who] = entry.get("time", "")
            self.versions[who] = entry.get("apiVersion", "")

    def give_up(self, tree: Tree) -> None:
        """Nobody owns these paths any more."""
        if tree:
            self.trees = {who: difference(had, tree) for who, had in self.trees.items()}

    def entries(self) -> list[Object]:
        """managedFields as it is stored: appliers first, then by time and name."""
        self._cap()
        found = []
        for who, tree in self.trees.items():
            if not tree:
                continue
            found.append(_entry(who, self.versions[who], self.times.get(who, ""), to_fields(tree)))
        found.sort(key=lambda e: (e["operation"], e.get("time", ""), e["manager"], e["apiVersion"]))
        return found

    def _cap(self) -> None:
        """Fold the oldest updaters into one entry when there are more than ten."""
        updaters = sorted((who for who, tree in self.trees.items() if who[1] == "Update" and tree), key=self._age)
        for who in updaters[: max(0, len(updaters) - _MAX_UPDATERS)]:
            old = _identity(_ANCIENT, "Update", self.versions[who], "")
            self.trees[old] = union(self.trees.get(old, {}), self.trees.pop(who))
            self.times[old], self.versions[old] = self.times[who], self.versions[who]

    def _age(self, who: Identity) -> tuple[bool, str, str]:
        return (who[0] == _ANCIENT, self.times.get(who, ""), who[0])


def _identity(manager: str, operation: str, api_version: str, subresource: str) -> Identity:
    return (manager, operation, "" if operation == "Apply" else api_version, subresource)


def _entry(who: Identity, version: str, time: str, fields: Tree) -> Object:
    manager, operation, _, subresource = who
    entry: Object = {"manager": manager, "operation": operation, "apiVersion": version}
    if time:
        entry["time"] = time
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": fields}
    if subresource:
        entry["subresource"] = subresource
    return entry


def _shown(who: Identity) -> str:
    manager, operation, api_version, subresource = who
    text = f'"{manager}"' + (f' with subresource "{subresource}"' if subresource else "")
    return f"{text} using {api_version}" if operation == "Update" else text


def _status_apart(schema: Schema) -> bool:
    """Whether status is written through its own subresource only."""
    if schema.name.startswith("io.k8s."):
        return "spec" in schema.fields and "status" in schema.fields
    return bool(schema.rules.get("statusSubresource"))


def _tracked(tree: Tree, schema: Schema, subresource: str) -> Tree:
    """The part of a set that managedFields speak of."""
    if subresource == "status":
        return {key: sub for key, sub in tree.items() if key == "f:status"}
    skip = {"f:apiVersion", "f:kind", MEMBER}
    if _status_apart(schema):
        skip.add("f:status")
    kept = {key: sub for key, sub in tree.items() if key not in skip}
    metadata = kept.pop("f:metadata", None)
    if metadata:
        rest = {key: sub for key, sub in metadata.items() if key not in _UNTRACKED}
        if rest:
            kept["f:metadata"] = rest
    return kept


def track_update(
    old: Object | None,
    new: Object,
    manager: str,
    operation: str,
    schema: Schema | None,
    now: str,
    subresource: str = "",
) -> Object:
    """Set `new`'s managedFields for a write other than apply, and return `new`.

    `old` is the stored object (None on create); `now` is RFC 3339. A client that sends managedFields with one empty
    entry resets them; one that sends none keeps the stored ones.
    """
    schema = schema or FREE
    metadata = new.setdefault("metadata", {})
    given = metadata.pop("managedFields", None)
    if not old and not given:
        everything_new = written(new, schema)
        only_news(everything_new, new, schema)
        fields = _tracked(everything_new, schema, subresource)
        who = _identity(manager, operation, new.get("apiVersion", ""), subresource)
        if fields:
            metadata["managedFields"] = [_entry(who, who[2], now, dict(sorted(fields.items())))]
        return new
    reset = given == [{}]
    owners = _Owners(None if reset else given or ((old or {}).get("metadata") or {}).get("managedFields"))
    if reset:
        return new
    changed, removed = compare(old, new, schema) if old else (everything(new, schema), {})
    changed = _tracked(changed, schema, subresource)
    owners.give_up(removed)
    owners.give_up(changed)
    if changed:
        who = _identity(manager, operation, new.get("apiVersion", ""), subresource)
        owners.trees[who] = union(owners.trees.get(who, {}), changed)
        owners.times[who], owners.versions[who] = now, new.get("apiVersion", "")
    if entries := owners.entries():
        metadata["managedFields"] = entries
    return new


def apply(
    live: Object | None,
    config: Object,
    manager: str,
    force: bool,
    schema: Schema | None,
    now: str,
    subresource: str = "",
) -> Object:
    """The live object (None: to be created) with `config` applied by `manager`, as a new object.

    Raises ApplyConflict unless `force`, and ApplyError for a configuration that cannot be applied.
    """
    schema = schema or FREE
    if (config.get("metadata") or {}).get("managedFields"):
        raise ApplyError("metadata.managedFields must be nil", status=400)
    base = live or {"apiVersion": config.get("apiVersion"), "kind": config.get("kind"), "metadata": {}}
    owners = _Owners((base.get("metadata") or {}).get("managedFields"))
    if live and not owners.trees:
        first = _identity(BEFORE_FIRST_APPLY, "Update", live.get("apiVersion", ""), "")
        owners.trees[first] = _tracked(owned(_bare(live), schema), schema, "")
        owners.times[first], owners.versions[first] = now, live.get("apiVersion", "")
    who = _identity(manager, "Apply", "", subresource)
    config = _scoped(config, schema, subresource)
    before = _bare(base)
    try:
        merged = _merge(before, config, schema)
        stated, last = owned(config, schema), owners.trees.get(who, {})
        owners.trees[who] = _tracked(stated, schema, subresource)
        merged = _prune(merged, last, stated, owners, schema)
        changed, removed = compare(before, merged, schema)
    except ListKeyError as error:
        raise ApplyError(f"failed to create typed patch object: {error}") from error
    changed = _tracked(changed, schema, subresource)
    _contest(owners, who, changed, force)
    for other in owners.trees:
        if other != who:
            owners.trees[other] = difference(difference(owners.trees[other], changed), removed)
    if changed or removed or who not in owners.times:
        owners.times[who] = now
    owners.versions[who] = config.get("apiVersion", "")
    return {**merged, "metadata": {**(merged.get("metadata") or {}), "managedFields": owners.entries()}}


def _bare(obj: Object) -> Object:
    """The object without managedFields."""
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


def _scoped(config: Object, schema: Schema, subresource: str) -> Object:
    """What of a configuration counts at this end point: status only at its own, and nothing but status there."""
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != "managedFields"}
    if subresource == "status":
        named = {key: metadata[key] for key in ("name", "namespace") if key in metadata}
        return {**{k: config[k] for k in ("apiVersion", "kind", "status") if k in config}, "metadata": named}
    scoped = {**config, "metadata": metadata}
    if _status_apart(schema):
        scoped.pop("status", None)
    return scoped


def _contest(owners: _Owners, who: Identity, changed: Tree, force: bool) -> None:
    """Raise ApplyConflict where another manager owns what changes."""
    conflicts = [
        (_shown(other), readable(path))
        for other in sorted(owners.trees)
        if other != who
        for path in paths(intersection(owners.trees[other], changed))
    ]
    if conflicts and not force:
        raise ApplyConflict(conflicts)


def _prune(merged: Object, last: Tree, stated: Tree, owners: _Owners, schema: Schema) -> Object:
    """Remove what the applier stated last time, unless somebody (the applier included) states it now."""
    if not last:
        return merged
    claimed = stated
    for tree in owners.trees.values():
        claimed = union(claimed, tree)
    gone = difference(with_named_parents(last, schema), with_named_parents(claimed, schema))
    result: Object = without(merged, gone, schema)
    return result


def _merge(live: Any, config: Any, schema: Schema) -> Any:
    """`config` over `live`: maps key by key, keyed lists and sets item by item, the rest replaced."""
    kind = shape(schema, config)
    if live is None or kind == "leaf" or shape(schema, live) != kind:
        return _normal(config, schema)
    if kind == "map":
        out = dict(live)
        for key, item in config.items():
            out[key] = _merge(live.get(key), item, below(schema, key))
        return out
    return _merge_list(live, config, schema)


def _normal(value: Any, schema: Schema) -> Any:
    """A copy of a configuration's value; also where nothing is live, keyed lists must have sound keys."""
    kind = shape(schema, value)
    if kind == "map":
        return {key: _normal(item, below(schema, key)) for key, item in value.items()}
    if kind == "list":
        return [_normal(item, schema.element or FREE) for item in indexed(schema, value, strict=True).values()]
    return value


def _merge_list(live: list[Any], config: list[Any], schema: Schema) -> list[Any]:
    """Items of both lists: the configuration's in its order, the others kept at their place between them."""
    inner = schema.element or FREE
    wanted = indexed(schema, config, strict=True)
    had = indexed(schema, live)
    shared = [key for key in wanted if key in had]
    order: list[str] = []
    rest = list(wanted)
    for item in live:
        key = element(schema, item)
        if key not in wanted:
            order.append(key)
        elif shared and key == shared[0]:
            while rest:  # all of the configuration's items up to this one
                following = rest.pop(0)
                order.append(following)
                if following in shared:
                    shared.remove(following)
                if following == key:
                    break
    order += rest
    return [
        _merge(had[key], wanted[key], inner)
        if key in had and key in wanted
        else _normal(wanted[key], inner)
        if key in wanted
        else had[key]
        for key in order
    ]
