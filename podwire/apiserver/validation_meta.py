"""Validation that all kinds share: names, labels, annotations, selectors, addresses, and the errors themselves.

Messages keep upstream's wording, since people search for it and clients match it. Source: apimachinery
util/validation and api/validation.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from podwire.model.quantity import parse_quantity

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with an object: the field's path, a reason clients know, and the text after the path."""

    field: str
    type: str
    message: str


_REASONS = {
    "Invalid value": "FieldValueInvalid",
    "Required value": "FieldValueRequired",
    "Duplicate value": "FieldValueDuplicate",
    "Forbidden": "FieldValueForbidden",
    "Unsupported value": "FieldValueNotSupported",
    "Not found": "FieldValueNotFound",
    "Too long": "FieldValueTooLong",
    "Too many": "FieldValueTooMany",
}


class Errors(list[Cause]):
    """Collects causes; one method for each reason, with upstream's layout of the message."""

    def _add(self, field: str, words: str, detail: str, value: Any = ...) -> None:
        text = words if value is ... else f"{words}: {shown(value)}"
        self.append(Cause(field, _REASONS[words], f"{text}: {detail}" if detail else text))

    def invalid(self, field: str, value: Any, detail: str) -> None:
        self._add(field, "Invalid value", detail, value)

    def required(self, field: str, detail: str = "") -> None:
        self._add(field, "Required value", detail)

    def duplicate(self, field: str, value: Any, detail: str = "") -> None:
        self._add(field, "Duplicate value", detail, value)

    def forbidden(self, field: str, detail: str) -> None:
        self._add(field, "Forbidden", detail)

    def not_found(self, field: str, value: Any) -> None:
        self._add(field, "Not found", "", value)

    def too_long(self, field: str, limit: int) -> None:
        self._add(field, "Too long", f"may not be more than {limit} bytes")

    def too_many(self, field: str, count: int, limit: int) -> None:
        self._add(field, "Too many", f"must have at most {limit} items", count)

    def unsupported(self, field: str, value: Any, supported: Iterable[str]) -> None:
        self._add(field, "Unsupported value", "supported values: " + ", ".join(map(quoted, supported)), value)

    def one_of(self, field: str, value: Any, supported: tuple[str, ...]) -> None:
        if value not in supported:
            self.unsupported(field, value, supported)

    def not_negative(self, field: str, value: Any) -> None:
        if value is not None and value < 0:
            self.invalid(field, value, "must be greater than or equal to 0")

    def check(self, field: str, value: Any, rule: Callable[[str], list[str]]) -> None:
        """Add a cause for each message that `rule` has for the value."""
        for message in rule(value):
            self.invalid(field, value, message)


def quoted(text: Any) -> str:
    return json.dumps(text, ensure_ascii=False) if isinstance(text, str) else str(text)


def shown(value: Any) -> str:
    """A value as Go's field errors print it: quoted text, plain numbers, JSON for the rest."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if not isinstance(value, int) else str(value)


def _regex_words(message: str, pattern: str, *examples: str) -> str:
    given = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {given}regex used for validation is '{pattern}')"


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_NAME})?"
_CONFIG_KEY = r"[-._a-zA-Z0-9]+"
_RE = {text: re.compile(text) for text in (_LABEL, _SUBDOMAIN, _NAME, _VALUE, _CONFIG_KEY)}
_LABEL_WORDS = _regex_words(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character",
    _LABEL,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_WORDS = _regex_words(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character",
    _SUBDOMAIN,
    "example.com",
)
_NAME_WORDS = _regex_words(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    _NAME,
    "MyName",
    "my.name",
    "123-abc",
)
_VALUE_WORDS = _regex_words(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character",
    _VALUE,
    "MyValue",
    "my_value",
    "12345",
)
_CONFIG_WORDS = _regex_words(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)


def _limit(length: int) -> str:
    return f"must be no more than {length} characters"


def dns_label(value: str) -> list[str]:
    """RFC 1123 label."""
    found = [_limit(63)] if len(value) > 63 else []
    if _RE[_LABEL].fullmatch(value):
        return found
    return [*found, "must not contain dots" if _RE[_SUBDOMAIN].fullmatch(value) else _LABEL_WORDS]


def dns_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain, the rule for most names."""
    found = [_limit(253)] if len(value) > 253 else []
    return found if _RE[_SUBDOMAIN].fullmatch(value) else [*found, _SUBDOMAIN_WORDS]


def path_segment(value: str) -> list[str]:
    """The loose rule of RBAC names: one segment of a URL path."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in value]


def qualified_name(value: str) -> list[str]:
    """A label key: an optional DNS prefix and a name."""
    prefix, slash, name = value.rpartition("/")
    found = []
    if "/" in prefix:
        return [
            f"a valid label key {_NAME_WORDS} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    if slash:
        found = ["prefix part must be non-empty"] if not prefix else ["prefix part " + m for m in dns_subdomain(prefix)]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > 63:
        found.append("name part " + _limit(63))
    return found if _RE[_NAME].fullmatch(name) else [*found, "name part " + _NAME_WORDS]


def label_value(value: str) -> list[str]:
    found = [_limit(63)] if len(value) > 63 else []
    return found if _RE[_VALUE].fullmatch(value) else [*found, _VALUE_WORDS]


def config_key(value: str) -> list[str]:
    """A key of a ConfigMap or a Secret."""
    found = [_limit(253)] if len(value) > 253 else []
    if not _RE[_CONFIG_KEY].fullmatch(value):
        found.append(_CONFIG_WORDS)
    if value in (".", ".."):
        found.append(f"must not be '{value}'")
    elif value.startswith(".."):
        found.append("must not start with '..'")
    return found


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


_PORT_CHARS = re.compile(r"[-a-z0-9]+")


def port_name(value: str) -> list[str]:
    """An IANA service name: at most 15 characters with a letter, no double or outer hyphens."""
    found = [_limit(15)] if len(value) > 15 else []
    if not _PORT_CHARS.fullmatch(value):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        found.append("must contain at least one letter (a-z)")
    if "--" in value:
        found.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def port_or_name(errors: Errors, path: str, value: Any) -> None:
    """A port as a number or as the name of a container's port."""
    errors.check(path, value, port_name if isinstance(value, str) else port_number)  # type: ignore[arg-type]


def ip_address(value: str) -> list[str]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


def cidr(value: str) -> list[str]:
    """A CIDR. Host bits are tolerated, as upstream does for fields that always allowed them."""
    try:
        if "/" not in value or "%" in value:
            raise ValueError(value)
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
    return []


_LEADING_ZEROS = re.compile(r"(?<![0-9a-fA-F])0+(?=[0-9])")
_LONG_GROUPS = re.compile(r"(?<![0-9a-fA-F])0+(?=[0-9a-fA-F]{4})")


def strict_cidr(value: str) -> list[str]:
    """A CIDR in a field that took everything once: what is new is to be written without host bits, leading zeros and
    IPv4 in IPv6 (gate StrictIPCIDRValidation)."""
    address, slash, length = value.partition("/")
    plain = (_LONG_GROUPS if ":" in address else _LEADING_ZEROS).sub("", address)
    tidy = f"{plain}{slash}{_LEADING_ZEROS.sub('', length)}"
    if wrong := cidr(tidy):
        return wrong
    if tidy != value:
        return ["must not have leading 0s in IP or prefix length"]
    network = ipaddress.ip_interface(value)
    if network.version == 6 and network.ip.ipv4_mapped is not None:
        return ["must not have an IPv4-mapped IPv6 address"]
    if network.ip != network.network.network_address:
        return ["must not have bits set beyond the prefix length"]
    return []


def canonical_cidr(value: str) -> str:
    """The usual text of a CIDR."""
    return str(ipaddress.ip_network(value))


def quantity(value: Any) -> list[str]:
    try:
        parse_quantity(value)
    except (ValueError, ArithmeticError):
        return ["quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"]
    return []


def labels(errors: Errors, path: str, found: Any) -> None:
    for key, value in (found or {}).items():
        errors.check(path, key, qualified_name)
        errors.check(path, value, label_value)


def label_selector(errors: Errors, path: str, selector: Object | None) -> None:
    if not selector:
        return
    labels(errors, f"{path}.matchLabels", selector.get("matchLabels"))
    for i, term in enumerate(selector.get("matchExpressions") or []):
        where, operator, values = f"{path}.matchExpressions[{i}]", term.get("operator", ""), term.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                errors.required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                errors.forbidden(
                    f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
        else:
            errors.invalid(f"{where}.operator", operator, "not a valid selector operator")
        errors.check(f"{where}.key", term.get("key", ""), qualified_name)
        for j, value in enumerate(values):
            errors.check(f"{where}.values[{j}]", value, label_value)


ANNOTATIONS_LIMIT = 256 * 1024


def annotation_texts(errors: Errors, path: str, found: Object) -> None:
    size = 0
    for key, value in found.items():
        errors.check(path, key, lambda key: qualified_name(key.lower()))
        size += len(key) + len(value)
    if size > ANNOTATIONS_LIMIT:
        errors.too_long(path, ANNOTATIONS_LIMIT)


def object_meta(errors: Errors, metadata: Object, rule: Callable[[str], list[str]], path: str = "metadata") -> None:
    """Names, labels, annotations, owner references and finalizers."""
    prefix = metadata.get("generateName")
    if prefix:
        errors.check(f"{path}.generateName", prefix, lambda text: rule(text.rstrip("-") + "a" if text else text))
    name = metadata.get("name")
    if not name:
        errors.required(f"{path}.name", "name or generateName is required")
    else:
        errors.check(f"{path}.name", name, rule)
    if metadata.get("namespace"):
        errors.check(f"{path}.namespace", metadata["namespace"], dns_label)
    if metadata.get("labels"):
        labels(errors, f"{path}.labels", metadata["labels"])
    if metadata.get("annotations"):
        annotation_texts(errors, f"{path}.annotations", metadata["annotations"])
    if metadata.get("ownerReferences"):
        _owners(errors, f"{path}.ownerReferences", metadata["ownerReferences"])
    for text in metadata.get("finalizers") or []:
        errors.check(f"{path}.finalizers", text, qualified_name)


def _owners(errors: Errors, path: str, owners: list[Object]) -> None:
    controllers = []
    for owner in owners:
        if not owner.get("apiVersion"):
            errors.invalid(f"{path}.apiVersion", "", "version must not be empty")
        for key in ("kind", "name", "uid"):
            if not owner.get(key):
                errors.invalid(f"{path}.{key}", "", "must not be empty")
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        errors.invalid(
            path,
            owners,
            f'Only one reference can have Controller set to true. Found "true" in references for'
            f" {controllers[0].get('kind')}/{controllers[0].get('name')} and"
            f" {controllers[1].get('kind')}/{controllers[1].get('name')}",
        )


def object_meta_update(errors: Errors, new: Object, old: Object, path: str = "metadata") -> None:
    """What may not change in metadata."""
    for key in ("name", "namespace", "uid", "creationTimestamp"):
        if new.get(key) != old.get(key) and old.get(key) is not None:
            immutable(errors, f"{path}.{key}", new.get(key), old.get(key))
    if old.get("deletionTimestamp"):
        extra = sorted(set(new.get("finalizers") or []) - set(old.get("finalizers") or []))
        if extra:
            names = ", ".join(map(quoted, extra))
            errors.forbidden(
                f"{path}.finalizers",
                "no new finalizers can be added if the object is being deleted, found new finalizers"
                f" []string{{{names}}}",
            )


def immutable(errors: Errors, path: str, new: Any, old: Any) -> None:
    if new != old:
        errors.invalid(path, new, "field is immutable")
