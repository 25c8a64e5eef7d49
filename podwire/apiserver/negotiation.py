"""What the client takes (Accept) and what it sent (Content-Type).

JSON always goes; protobuf is read but not written, which clients that list JSON beside it accept. YAML is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from podwire.apiserver.errors import StatusError, bad_request, not_acceptable, unsupported_media_type
from podwire.apiserver.protobuf import ProtobufError
from podwire.apiserver.protobuf import decode as decode_protobuf
from podwire.apiserver.strict import duplicate_keys, may_repeat
from podwire.apiserver.tables import TableForm

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
READABLE = (JSON, YAML, PROTOBUF)
_CHECKED = 64 << 10  # larger bodies of typed clients are not worth a second parse for a warning


@dataclass(frozen=True, slots=True)
class Form:
    """The form of an answer: plain objects, a Table, or metadata only (`partial` holds the meta.k8s.io version)."""

    table: TableForm | None = None
    partial: str = ""


PLAIN = Form()


def media_types(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The entries of an Accept header, best first, with their parameters."""
    found = []
    for position, entry in enumerate(accept.split(",")):
        name, *parts = (part.strip() for part in entry.split(";"))
        parameters = dict(part.split("=", 1) for part in parts if "=" in part)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        found.append((-quality, position, name.lower(), parameters))
    return [(name, parameters) for _, _, name, parameters in sorted(found, key=lambda each: each[:2])]


def accepted_form(accept: str, include: str, *, tables: bool = True) -> Form:
    """The first form of the Accept header that this server can give. Raises 406."""
    if not accept or accept == JSON:
        return PLAIN
    for name, parameters in media_types(accept):
        if name not in (JSON, "application/*", "*/*"):
            continue
        shown = parameters.get("as", "")
        group, version = parameters.get("g", ""), parameters.get("v", "")
        if not shown:
            return PLAIN
        if group != "meta.k8s.io" or version not in ("v1", "v1beta1"):
            continue
        if shown == "Table" and tables:
            return Form(table=TableForm(version, include or "Metadata"))
        if shown in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return Form(partial=version)
    raise not_acceptable([JSON])


def wants_yaml(accept: str) -> bool:
    """Whether YAML is what the client likes best."""
    return "yaml" in accept and media_types(accept)[0][0] == YAML


def as_yaml(body: bytes) -> bytes:
    """A JSON answer as YAML."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: bytes = yaml.dump(msgspec.json.decode(body), Dumper=dumper, encoding="utf-8", allow_unicode=True)
    return text


def media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def read_body(body: bytes, content_type: str) -> tuple[Any, list[str]]:
    """The object in a request body, and messages about keys given twice. Raises 400, 415."""
    kind = media_type(content_type) or JSON
    if kind == JSON:
        value = read_json(body)
        return value, duplicate_keys(body) if len(body) <= _CHECKED and may_repeat(body, value) else []
    if kind in (YAML, "application/x-yaml", "text/yaml"):
        return read_yaml(body), []
    if kind == PROTOBUF:
        try:
            return decode_protobuf(body), []
        except ProtobufError as error:
            raise bad_request(f"couldn't read the protobuf body: {error}") from error
    raise unsupported_media_type(READABLE)


def read_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"couldn't get version/kind; json parse error: {error}"
        raise bad_request(message) from error


def read_yaml(body: bytes) -> Any:
    import yaml

    if body[:1] in (b"{", b"["):
        return read_json(body)
    try:
        return _plain(yaml.load(body, Loader=_loader(yaml)))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from error


def _loader(yaml: Any) -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _plain(value: Any) -> Any:
    """YAML's dates and keys that are not text, as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    raise StatusError(400, "BadRequest", f"YAML value of type {type(value).__name__} has no JSON form")
