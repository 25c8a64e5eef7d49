"""Which objects a list or watch asks for: namespace, label selector, field selector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.apiserver.errors import bad_request
from podwire.apiserver.resources import Resource
from podwire.model.selectors import (
    FieldSelector,
    LabelSelector,
    SelectorError,
    field_text,
    parse_field_selector,
    parse_label_selector,
)

Object = dict[str, Any]
_ALWAYS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for. Two watchers with equal selections see the same events."""

    namespace: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None
    defaults: tuple[tuple[str, str], ...] = ()

    @property
    def selective(self) -> bool:
        """It looks into objects, not only at their namespace."""
        return self.labels is not None or self.fields is not None

    @property
    def name(self) -> str:
        """The one name that can match, or ""."""
        for path, value, equal in self.fields.terms if self.fields else ():
            if path == "metadata.name" and equal:
                return value
        return ""

    def matches(self, obj: Object) -> bool:
        """Labels and fields; the namespace is matched by key."""
        if self.labels is not None and not self.labels.matches(obj["metadata"].get("labels")):
            return False
        if self.fields is None:
            return True
        defaults = dict(self.defaults)
        for path, value, equal in self.fields.terms:
            text = field_text(obj, path) or defaults.get(path, "")
            if path == "source":
                text = (obj.get("source") or {}).get("component") or obj.get("reportingComponent") or ""
            if (text == value) != equal:
                return False
        return True


def selection(resource: Resource, namespace: str, labels: str, fields: str) -> Selection:
    """Parse the selectors of a request. Raises StatusError 400."""
    try:
        by_label = parse_label_selector(labels) if labels.strip() else None
    except SelectorError as error:
        raise bad_request(f"unable to parse requirement: {error}") from error
    try:
        by_field = parse_field_selector(fields) if fields.strip() else None
    except SelectorError as error:
        raise bad_request(f"invalid selector: {fields!r}; can't understand {str(error)!r}") from error
    if by_field:
        by_field = _known_fields(resource, by_field)
    return Selection(namespace, by_label, by_field, tuple(resource.field_defaults.items()))


def _known_fields(resource: Resource, asked: FieldSelector) -> FieldSelector:
    terms = []
    for path, value, equal in asked.terms:
        known = path.removeprefix(".") if resource.is_custom else path
        if known not in _ALWAYS and known not in resource.fields:
            if resource.is_custom:
                raise bad_request(f"field label not supported: {path}")
            listed = ", ".join(f'"{each}"' for each in (*_ALWAYS, *resource.fields))
            raise bad_request(f'"{path}" is not a known field selector: only {listed}')
        terms.append((known, value, equal))
    return FieldSelector(tuple(terms))
