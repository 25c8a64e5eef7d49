"""What a verdict table says: stages in order, within one the narrowest row."""

import pytest

from podwire.calc.verdicts import (
    EVERY,
    UNKNOWN,
    Decision,
    Match,
    PolicyState,
    Range,
    RuleRef,
    Stage,
    Table,
    class_of,
    judge,
)
from podwire.model.address import parse_ip
from podwire.model.policy import ICMP, TCP, UDP, Direction, PolicyKey

KEY = PolicyKey("NetworkPolicy", "shop", "web")
YES, NO = (Decision(allow, RuleRef(KEY, label)) for allow, label in ((True, "ingress[0]"), (False, "ingress[1]")))
END = Decision(False, RuleRef(None, "default"))
CLASSED = Stage(
    True,
    {
        Match(7, TCP, 80, 80): NO,
        Match(7, TCP, 80, 90): YES,
        Match(7, ICMP, 8 << 8, 8 << 8 | 255): YES,
        Match(8, EVERY): YES,
        Match(8, UDP): NO,
        Match(UNKNOWN, TCP, 22, 22): YES,
    },
)
EVERYBODY = Stage(False, {Match(UNKNOWN, TCP, 443, 443): YES, Match(UNKNOWN, TCP, 85, 85): NO})
TABLES = {
    1: Table(Direction.INGRESS, (CLASSED, EVERYBODY), END),
    2: Table(Direction.INGRESS, (), END, by_source_port=((0, 1023, 1),)),
}


@pytest.mark.parametrize(
    "peer, protocol, port, said",
    [
        (7, TCP, 80, NO),
        (7, TCP, 85, YES),
        (7, TCP, 91, END),
        (7, ICMP, 8 << 8 | 3, YES),
        (7, ICMP, 0, END),
        (8, UDP, 53, NO),
        (8, TCP, 1, YES),
        (9, TCP, 443, YES),
        (UNKNOWN, TCP, 22, YES),
        (9, TCP, 22, END),
        (9, TCP, 85, NO),
    ],
)
def test_a_table_says(peer: int, protocol: int, port: int, said: Decision) -> None:
    assert judge(TABLES, 1, peer, protocol, port) is said


def test_source_ports_lead_to_another_table() -> None:
    assert judge(TABLES, 2, 7, TCP, 85, source_port=1023) is YES
    assert judge(TABLES, 2, 7, TCP, 85, source_port=1024) is END


def test_a_row_may_log_and_send_onward() -> None:
    log = RuleRef(KEY, "ingress[7]")
    stages = (
        Stage(True, {Match(7, TCP): YES, Match(7, TCP, 80, 80): Decision(False, log, (log,), onward=2)}),
        Stage(False, {Match(UNKNOWN, TCP, 80, 80): YES}),
        Stage(False, {Match(UNKNOWN, TCP, 80, 80): Decision(False, RuleRef(KEY, "x"), (), onward=3)}),
    )
    tables = {1: Table(Direction.INGRESS, stages, END)}
    assert judge(tables, 1, 7, TCP, 80) == Decision(False, END.rule, (log,))
    assert judge(tables, 1, 7, TCP, 81) is YES
    assert judge(tables, 1, 8, TCP, 80) is YES


@pytest.mark.parametrize(
    "address, number", [("10.0.0.1", 3), ("10.0.0.2", 4), ("11.0.0.0", UNKNOWN), ("::a00:2", UNKNOWN)]
)
def test_exact_addresses_go_before_ranges(address: str, number: int) -> None:
    low, high = (parse_ip(text)[0] for text in ("10.0.0.0", "10.255.255.255"))
    state = PolicyState(addresses={"10.0.0.1": 3}, ranges={Range(32, low, high): 4})
    assert class_of(state, address, *parse_ip(address)) == number


def test_decisions_name_what_decided() -> None:
    assert [str(each.rule) for each in (YES, END, Decision(True, RuleRef(None, "")))] == [
        "NetworkPolicy shop/web ingress[0]",
        "end of tier default",
        "no policy",
    ]
