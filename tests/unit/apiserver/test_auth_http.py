"""Bearer tokens and anonymity over HTTPS, and streams towards a kubelet that is not there."""

from __future__ import annotations

import time

import pytest

from podwire.apiserver import auth

REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
SELF = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


@pytest.fixture
async def nobody(running):
    """The same server, asked without a client certificate."""
    import ssl

    made = type(running.http)(running.url, ssl.create_default_context(cafile=str(running.pki.ca)))
    yield made
    await made.close()


async def token(running, **changes):
    account = (await running.http("GET", "/api/v1/namespaces/default/serviceaccounts/default")).json
    claims = auth.account_claims("default", "default", account["metadata"]["uid"], time.time(), 600, [], None)
    return auth.sign({**claims, **changes}, b"key")


async def test_a_token_names_its_account(running, nobody):
    made = await token(running)
    answer = await nobody("POST", REVIEW, SELF, Authorization=f"Bearer {made}")
    assert answer.status == 201
    user = answer.json["status"]["userInfo"]
    assert user["username"] == "system:serviceaccount:default:default"
    assert "system:authenticated" in user["groups"]


@pytest.mark.parametrize("changes", [{"exp": 1}, {"nbf": 99999999999}])
async def test_tokens_out_of_time(running, nobody, changes):
    made = await token(running, **changes)
    assert (await nobody("GET", "/api/v1/pods", Authorization=f"Bearer {made}")).status == 401


async def test_tokens_signed_by_others(running, nobody):
    made = await token(running)
    for wrong in (made[:-4] + "AAAA", "nonsense", "a.b.c", ""):
        answer = await nobody("GET", "/api/v1/pods", Authorization=f"Bearer {wrong}")
        assert (answer.status, answer.json["reason"]) == (401, "Unauthorized")


async def test_anonymous_sees_health_and_version_only(nobody):
    for path, status in (("/healthz", 200), ("/version", 200), ("/api/v1/pods", 401), ("/api", 401)):
        assert (await nobody("GET", path)).status == status


async def test_a_certificate_is_its_name_and_groups(running):
    user = (await running.http("POST", REVIEW, SELF)).json["status"]["userInfo"]
    assert user["username"] == "admin"
    assert user["groups"] == ["system:masters", "system:authenticated"]


POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("pods/none/log", 404),
        ("pods/p/log?container=x", 400),
        ("pods/p/log", 400),
        ("pods/p/exec?command=a", 400),
    ],
)
async def test_streams_that_cannot_start(running, path, status):
    assert (await running.http("POST", "/api/v1/namespaces/default/pods", POD)).status == 201
    answer = await running.http("GET", f"/api/v1/namespaces/default/{path}")
    assert answer.status == status, answer.text
    assert answer.json["kind"] == "Status"
