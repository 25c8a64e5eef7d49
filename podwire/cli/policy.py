"""`podwire policy`: its verbs, each in a page of its own."""

from __future__ import annotations

import click

from podwire.cli.lazy import LazyGroup

VERBS = {
    "check": ("podwire.cli.policy_check", "check_policies", "What is wrong with policies, and the way out."),
    "can": ("podwire.cli.policy_can", "can_connect", "May FROM reach TO:PORT, and which rule says so?"),
    "matrix": ("podwire.cli.policy_matrix", "show_matrix", "Who may reach whom, pods or groups of them."),
    "diff": ("podwire.cli.policy_diff", "diff_policies", "Which connections a change allows or denies."),
    "test": ("podwire.cli.policy_test", "test_policies", "Assertions about policies, for CI."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def policy() -> None:
    """Network policies: are they right, what do they allow, and what would a change do?

    Every verb works on files (-f) or on the cluster of your kubeconfig. Files may hold Namespaces, Pods, Services,
    EndpointSlices, Nodes, ServiceAccounts and every kind of policy, as `kubectl get -o yaml` or -o json prints them.

    \b
    podwire policy check -f manifests/                        what is wrong with them
    podwire policy can default/client svc/default/web:80      may it, and which rule says so
    podwire policy matrix --ports TCP/80,UDP/53               who may reach whom
    podwire policy diff -f pods.yaml old.yaml new.yaml        what a change allows or denies
    podwire policy test tests.yaml -f manifests/              unit tests of policies

    \b
    To look at a cluster's policies elsewhere:
      kubectl get ns,pods,svc,nodes,sa,endpointslices,networkpolicies -A -o json > world.json
    """
