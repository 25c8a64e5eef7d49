"""Bugs to plant in the compiler: the page, what stands there, and what is put in its place."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """`events`: only seen when something changes."""

    what: str
    module: str
    here: str
    instead: str
    events: bool = False


BUGS = (
    Bug("nets are not asked for", "clauses", "    if entity.nets:\n", "    if entity.nets and not entity.peers:\n"),
    Bug("except and notNets are forgotten", "clauses", "(entity.not_peers, entity.not_nets)", "(entity.not_peers,)"),
    Bug("notSelector is forgotten", "clauses", "(entity.not_peers, entity.not_nets)", "(entity.not_nets,)"),
    Bug("a service is anybody", "clauses", "    if entity.services:\n", "    if False:\n"),
    Bug("a service's ports are any", "clauses", "if not ingress and rule.destination.services:", "if False:"),
    Bug(
        "names of ports are the other end's",
        "clauses",
        "(peer, local) if ingress else (local, peer)",
        "(local, peer) if ingress else (peer, local)",
    ),
    Bug("a name is of every protocol", "clauses", "(number, number)], (of,))", "(number, number)], PORTED)"),
    Bug("an ICMP type is its code 0", "clauses", "(0, 255) if icmp.code is None", "(0, 0) if icmp.code is None"),
    Bug("notICMP is forgotten", "clauses", "if rule.not_icmp is not None:", "if False:"),
    Bug("notProtocol is forgotten", "clauses", "if rule.not_protocol is not None:", "if False:"),
    Bug(
        "source ports are forgotten",
        "clauses",
        "return both(found, _source(rule, at_source, source_port))",
        "return found",
    ),
    Bug("a source port too few", "clauses", "for edge in (first, last + 1))", "for edge in (first, last))"),
    Bug(
        "ends of earlier tiers are forgotten",
        "layout",
        "        if tier.default is Action.DENY:\n",
        "        if tier.default is Action.DENY and last:\n",
    ),
    Bug("ipVersion is forgotten", "layout", "if rule.version is not None:", "if False:"),
    Bug("rules of any action change places", "layout", "if not drafts[place].lets_by(entry):", "if False:"),
    Bug("order is forgotten", "governing", "each.tier, each.rank))", "each.tier, each.rank[1]))"),
    Bug(
        "the order of tiers is forgotten",
        "governing",
        "(self.tiers[each.tier].order, each.tier, each.rank)",
        "(each.tier, each.rank)",
    ),
    Bug("staged policies are enforced", "governing", "(staged or not each.staged)", "True"),
    Bug(
        "nodes are looked for among pods",
        "peers",
        "if peers.over is Over.ENDPOINTS else self._nodes",
        "if peers else self._nodes",
    ),
    Bug("a prefix is not within another", "prefixes", "marks = marks | stack[-1][1]", "marks = marks or stack[-1][1]"),
    Bug(
        "an address after an inner prefix is left out",
        "prefixes",
        "        at = each.last + 1\n",
        "        at = each.last + 2\n",
    ),
    Bug("single ports do not overlap", "region", "        if first <= last:\n", "        if first < last:\n"),
    Bug("the last rule decides", "region", "        if self.decision is not None:\n            return self\n", ""),
    Bug(
        "a rule for any protocol leaves out the named ones",
        "region",
        "in self._tracks.keys() - region.by.keys():",
        "in ():",
    ),
    Bug("a changed order is overlooked", "governing", "_place(before) != _place(policy)", "False", events=True),
    Bug("a changed account is overlooked", "policy", "if group.key.account == key[1]]", "if False]", events=True),
    Bug("a changed tier is overlooked", "governing", "if self.policies[key].tier == name:", "if False:", events=True),
    Bug(
        "a slice that went still serves",
        "peers",
        "if old is not None and (found is None or",
        "if old is not None and (found is not None and",
        events=True,
    ),
    Bug(
        "retired classes keep their rows", "tables", "for match in keys.pop(each, ()):", "for match in ():", events=True
    ),
    Bug("what was logged before is forgotten", "region", "decision.after(self.logs))", "decision)"),
    Bug("the governed pod's own end is anybody", "layout", "meant = next(versions)", "meant = next(versions) and None"),
    Bug(
        "a gate is for the others",
        "layout",
        "Gate(draft.kind, False, len(stages) + 2)",
        "Gate(draft.kind, True, len(stages) + 2)",
    ),
    Bug(
        "the governed pod's families are one",
        "policy",
        "return None if all(found.values())",
        "return None if any(found.values())",
    ),
)
