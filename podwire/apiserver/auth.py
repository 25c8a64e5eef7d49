"""Who is asking: client certificates (CN = user, O = groups) and service account tokens (JWT, HMAC-SHA256).

Everyone who proves a name may do everything: RBAC objects are stored, not enforced. Anonymous requests see only
health and version.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any

import msgspec

from podwire.apiserver.admission import User
from podwire.apiserver.store import Store
from podwire.http.server import Peer

ISSUER = "https://kubernetes.default.svc.cluster.local"
OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
Claims = dict[str, Any]


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(data: bytes) -> bytes:
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))


def sign(claims: Claims, key: bytes) -> str:
    """A compact JWT."""
    signed = _HEADER + b"." + _encode(msgspec.json.encode(claims))
    return (signed + b"." + _encode(hmac.digest(key, signed, hashlib.sha256))).decode()


def verify(token: str, key: bytes) -> Claims | None:
    """The claims of a token that this server signed, else None. Times are not looked at."""
    signed, _, signature = token.encode().rpartition(b".")
    try:
        if not hmac.compare_digest(_decode(signature), hmac.digest(key, signed, hashlib.sha256)):
            return None
        claims = msgspec.json.decode(_decode(signed.partition(b".")[2]))
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def account_claims(
    namespace: str, name: str, uid: str, now: float, seconds: int, audiences: list[str], bound: Claims | None
) -> Claims:
    """The claims of a service account's token; `bound` names the pod or secret that it dies with."""
    private: Claims = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
    if bound and bound.get("kind") in ("Pod", "Secret"):
        private[bound["kind"].lower()] = {"name": bound.get("name", ""), "uid": bound.get("uid", "")}
    return {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{namespace}:{name}",
        "aud": audiences or [ISSUER],
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now) + seconds,
        "kubernetes.io": private,
    }


def token_user(token: str, key: bytes, store: Store, now: float) -> User | None:
    """The service account of a valid token: signed here, in time, and the account (and the pod) still exists."""
    claims = verify(token, key)
    if not claims or not claims.get("nbf", 0) - 60 <= now <= claims.get("exp", 0):
        return None
    private = claims.get("kubernetes.io") or {}
    namespace, account = private.get("namespace", ""), private.get("serviceaccount") or {}
    stored = store.collection("serviceaccounts").objects.get((namespace, account.get("name", "")))
    if stored is None or stored.object["metadata"]["uid"] != account.get("uid"):
        return None
    for kind in ("pod", "secret"):
        bound = private.get(kind)
        if bound:
            found = store.collection(f"{kind}s").objects.get((namespace, bound.get("name", "")))
            if found is None or found.object["metadata"]["uid"] != bound.get("uid"):
                return None
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    extra = {}
    if private.get("pod"):
        extra["authentication.kubernetes.io/pod-name"] = [private["pod"]["name"]]
        extra["authentication.kubernetes.io/pod-uid"] = [private["pod"]["uid"]]
    return User(claims["sub"], groups, account.get("uid", ""), extra)


def authenticate(peer: Peer, authorization: str, key: bytes, store: Store, now: float) -> User | None:
    """The user of a request, or None for nobody in particular."""
    if peer.common_name:
        return User(peer.common_name, (*peer.organizations, "system:authenticated"))
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token:
        return token_user(token.strip(), key, store, now)
    return None
