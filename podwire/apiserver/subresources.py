"""Subresources that are not just a part of their object: scale, binding, eviction, tokens; and the reviews.

Source: behaviour of Kubernetes' registry/{apps,core,authentication,authorization}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from podwire.apiserver import auth, deletion
from podwire.apiserver.durations import timestamp
from podwire.apiserver.errors import StatusCause, bad_request, conflict, invalid
from podwire.apiserver.patching import patched
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.rows_apps import selector_text
from podwire.apiserver.shape import Object, Options
from podwire.model.gvr import GVR, PODS

SCALES = Resource(GVR("autoscaling", "v1", "scales", "Scale"))
_SHORTEST, _USUAL, _LONGEST = 600, 3600, 1 << 32
SUCCESS: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _at(obj: Any, path: str) -> Any:
    for part in path.removeprefix(".").split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
    return obj


def _set(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.removeprefix(".").split(".")
    for part in parents:
        obj = obj.setdefault(part, {})
    obj[last] = value


def scale_of(resource: Resource, obj: Object) -> Object:
    """The Scale object of a workload."""
    scale, metadata = resource.scale, obj["metadata"]
    assert scale
    selector = _at(obj, scale.selector) if scale.selector else None
    text = selector if isinstance(selector, str) else selector_text(selector) if selector else ""
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": _at(obj, scale.replicas) or 0} if _at(obj, scale.replicas) else {},
        "status": {"replicas": _at(obj, scale.current) or 0, **({"selector": text} if text else {})},
    }


async def write_scale(
    rest: Rest, resource: Resource, namespace: str, name: str, kind: str, body: Any, options: Options
) -> Object:
    """PUT (`kind` is "") or PATCH of a Scale. Raises StatusError."""
    stored = rest.latest(resource, namespace, name)
    current = scale_of(resource, stored.object)
    wanted = patched(SCALES, "merge" if kind == "apply" else kind, current, body) if kind else body
    if not isinstance(wanted, dict) or wanted.get("kind", "Scale") != "Scale":
        raise bad_request("the body is not a Scale")
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise bad_request("Scale: spec.replicas is not a number")
    if replicas < 0:
        message = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid(SCALES.gvr, name, [StatusCause("FieldValueInvalid", message, "spec.replicas")])
    version = (wanted.get("metadata") or {}).get("resourceVersion")
    if version and version != stored.object["metadata"]["resourceVersion"]:
        raise conflict(resource.gvr, name)
    obj = stored.copy()
    assert resource.scale
    _set(obj, resource.scale.replicas, replicas)
    return scale_of(resource, (await rest.change(resource, stored, obj, options, "scale")).object)


async def bind(rest: Rest, resource: Resource, namespace: str, name: str, body: Any, options: Options) -> Object:
    """POST pods/NAME/binding: put a pod on a node, once."""
    node = (body.get("target") or {}).get("name") if isinstance(body, dict) else ""
    if not node:
        cause = StatusCause("FieldValueRequired", "Required value", "target.name")
        raise invalid(GVR("", "v1", "bindings", "Binding"), name, [cause])
    stored = rest.latest(resource, namespace, name)
    pod = stored.copy()
    if pod["metadata"].get("deletionTimestamp"):
        raise conflict(PODS, name, f"pod {name} is being deleted, cannot be assigned to a host", "binding")
    if pod["spec"].get("nodeName"):
        taken = f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise conflict(PODS, name, taken, "binding")
    pod["spec"]["nodeName"] = node
    metadata = body.get("metadata") or {}
    if metadata.get("annotations"):
        pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **metadata["annotations"]}
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(options.now),
    }
    conditions = (pod.get("status") or {}).get("conditions") or []
    pod["status"]["conditions"] = [*(c for c in conditions if c.get("type") != "PodScheduled"), scheduled]
    if not options.dry_run:
        await rest.store.put(resource.storage, (namespace, name), pod)
    return {**SUCCESS, "code": 201}


async def evict(rest: Rest, resource: Resource, namespace: str, name: str, body: Any, options: Options) -> Object:
    """POST pods/NAME/eviction: delete a pod; disruption budgets are not served, so nothing stands against it."""
    wanted = deletion.read_options((body.get("deleteOptions") or {}) if isinstance(body, dict) else {}, {})
    await deletion.delete(rest, resource, namespace, name, wanted, options)
    return {**SUCCESS, "code": 201}


async def issue_token(
    rest: Rest, resource: Resource, namespace: str, name: str, body: Any, options: Options, key: bytes
) -> Object:
    """POST serviceaccounts/NAME/token: a TokenRequest, answered with its token."""
    account = rest.latest(resource, namespace, name).object["metadata"]
    spec = (body.get("spec") if isinstance(body, dict) else None) or {}
    seconds = spec.get("expirationSeconds") or _USUAL
    if not isinstance(seconds, int) or not _SHORTEST <= seconds <= _LONGEST:
        message = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        cause = StatusCause("FieldValueInvalid", message, "spec.expirationSeconds")
        raise invalid(GVR("authentication.k8s.io", "v1", "tokenrequests", "TokenRequest"), "", [cause])
    bound, audiences = spec.get("boundObjectRef"), spec.get("audiences") or [auth.ISSUER]
    claims = auth.account_claims(namespace, name, account["uid"], options.now, seconds, audiences, bound)
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamp(options.now)},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": auth.sign(claims, key), "expirationTimestamp": timestamp(options.now + seconds)},
    }


def review(rest: Rest, resource: Resource, body: Any, options: Options, key: bytes) -> Object:
    """Answer a review: who am I, may I, whose token is this."""
    obj: Object = body if isinstance(body, dict) else {}
    user = options.user
    about = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        about["uid"] = user.uid
    if user.extra:
        about["extra"] = user.extra  # type: ignore[assignment]
    answer = {
        "kind": resource.gvr.kind,
        "apiVersion": resource.gvr.api_version,
        "metadata": {"creationTimestamp": timestamp(options.now)},
    }
    match resource.gvr.kind:
        case "SelfSubjectReview":
            return {**answer, "status": {"userInfo": about}}
        case "TokenReview":
            return {**answer, "spec": obj.get("spec") or {}, "status": _token_status(rest, obj, options, key)}
        case "SelfSubjectRulesReview":
            rules = {
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": False,
            }
            return {**answer, "spec": obj.get("spec") or {}, "status": rules}
        case _:
            spec = obj.get("spec") or {}
            if bool(spec.get("resourceAttributes")) == bool(spec.get("nonResourceAttributes")):
                words = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
                cause = StatusCause("FieldValueInvalid", f"Invalid value: null: {words}", "spec.resourceAttributes")
                raise invalid(replace(resource.gvr, kind=""), "", [cause])
            return {**answer, "spec": spec, "status": {"allowed": True}}


def _token_status(rest: Rest, obj: Object, options: Options, key: bytes) -> Object:
    token = (obj.get("spec") or {}).get("token", "")
    user = auth.token_user(token, key, rest.store, options.now) if isinstance(token, str) else None
    if user is None:
        return {"user": {}, "error": "invalid bearer token"}
    return {
        "authenticated": True,
        "user": {"username": user.name, "uid": user.uid, "groups": list(user.groups)},
        "audiences": (obj.get("spec") or {}).get("audiences") or [auth.ISSUER],
    }
