"""Selector expressions: their canonical text, what they match, where they are wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.model.expression import ExpressionError, parse_selector, parse_term, selector_of
from podwire.model.terms import ALL, GLOBAL, NAMESPACE, Compare, Every, Has, Not, OneOf, Some, Term, renamed

CANONICAL = {
    "": "all()",
    "  \t": "all()",
    "all( )": "all()",
    "global()": "global()",
    "a=='b'": 'a == "b"',
    "a != 'b'": 'a != "b"',
    """a == 'say "x"'""": """a == 'say "x"'""",
    "has( a )": "has(a)",
    "!has(a)": "!has(a)",
    "!!has(a)": "has(a)",
    "!!!has(a)": "!has(a)",
    "!(!has(a))": "has(a)",
    "a in {'z', 'b','z',}": 'a in {"b", "z"}',
    "a not in {}": "a not in {}",
    "a notin {'x'}": 'a not in {"x"}',
    "a contains 'x'": 'a contains "x"',
    "a startswith 'x'": 'a starts with "x"',
    "a  starts\twith 'x'": 'a starts with "x"',
    "a endswith 'x'": 'a ends with "x"',
    "has(a)&&has(b)||has(c)": "((has(a) && has(b)) || has(c))",
    "has(a)&&(has(b)||has(c))": "(has(a) && (has(b) || has(c)))",
    "((has(a)))": "has(a)",
    "in in {'in'}": 'in in {"in"}',
    "contains contains 'a'": 'contains contains "a"',
    "a.b/c-d_e == 'x'": 'a.b/c-d_e == "x"',
}


@pytest.mark.parametrize(("text", "canonical"), CANONICAL.items())
def test_canonical_text(text: str, canonical: str) -> None:
    found = parse_selector(text)
    assert str(found) == found.text == canonical
    assert parse_selector(canonical).text == canonical


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ('a = "b"', 3, "use =="),
        ("a == 'b' & has(c)", 10, "use &&"),
        ("a == 'b' | has(c)", 10, "use ||"),
        ("a == 'b'\n", 9, "no line break"),
        ("has(a) &&\n has(b)", 10, "no line break"),
        ("a == 'b", 6, "never closed"),
        ("a", 2, "write has(a)"),
        ("has (a)", 5, "without a blank"),
        ("a == b", 6, "write 'b'"),
        ("'a' == 'b'", 1, "without quotation marks"),
        ("has('a')", 5, "without quotation marks"),
        ("()", 2, "a label"),
        ("a in 'b'", 6, "{ expected"),
        ("a in {b}", 7, "write 'b'"),
        ("a not 'b'", 7, "in expected"),
        ("a starts 'b'", 10, "with expected"),
        ("(has(a)", 8, ") expected"),
        ("has(a))", 7, "the end expected"),
        ("has(a) has(b)", 8, "&&, || or the end expected"),
        ("all() &&", 9, "it ends here"),
        ("a like 'b'", 3, "a comparison"),
        ("ä == 'b'", 1, "unexpected 'ä'"),
        ("(" * 1_000_000, 65, "at most 64 parentheses"),
        ("a" * 513 + " == 'b'", 513, "a comparison"),
    ],
)
def test_errors_say_where_and_what_to_write(text: str, position: int, hint: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_selector(text)
    assert f": position {position}: " in str(caught.value) and hint in str(caught.value)
    assert len(str(caught.value)) < 400


_LABELS = st.sampled_from(["a", "b", "in", "not", "with", "has", "all", "x.y/z-1", "pcns.a"])
_VALUES = st.text(st.characters(blacklist_characters="'\"", max_codepoint=0x2FF), max_size=4) | st.sampled_from(
    ["a'b", 'a"b']
)
_PLAIN: st.SearchStrategy[Term] = st.one_of(
    st.sampled_from([ALL, GLOBAL]),
    st.builds(Has, _LABELS),
    st.builds(Compare, _LABELS, st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]), _VALUES),
    st.builds(lambda label, values, no: OneOf.of(label, values, negated=no), _LABELS, st.sets(_VALUES), st.booleans()),
)
TERMS = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.builds(Not.of, inner),
        st.builds(Every.of, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Some.of, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)
LABELS = st.dictionaries(_LABELS, _VALUES, max_size=4)


@given(TERMS)
def test_the_text_of_a_tree_is_that_tree(term: Term) -> None:
    assert parse_term(str(term)) == term


@given(TERMS, LABELS)
def test_what_a_selector_says_of_itself_holds(term: Term, labels: dict[str, str]) -> None:
    selector = selector_of(term)
    matched = selector.matches(labels)
    assert matched is parse_selector(selector.text).matches(labels)
    assert matched is _plainly(term, labels)
    if matched and selector.needs is not None:
        assert selector.needs & set(labels.items())
    read = {key: value for key, value in labels.items() if key in selector.keys}
    assert selector.matches(read) is matched


def _plainly(term: Term, labels: dict[str, str]) -> bool:
    match term:
        case Has(label):
            return label in labels
        case Compare(label, how, value):
            if label not in labels:
                return how == "!="
            have = labels[label]
            return {
                "==": have == value,
                "!=": have != value,
                "contains": value in have,
                "starts with": have.startswith(value),
                "ends with": have.endswith(value),
            }[how]
        case OneOf(label, values, negated):
            return (label in labels and labels[label] in values) != negated
        case Not(inner):
            return not _plainly(inner, labels)
        case Every(inner):
            return all(_plainly(each, labels) for each in inner)
        case Some(inner):
            return any(_plainly(each, labels) for each in inner)
        case _:
            return True


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("all()", None),
        ("a == 'b'", {("a", "b")}),
        ("a in {'b', 'c'}", {("a", "b"), ("a", "c")}),
        ("a in {}", set()),
        ("a != 'b'", None),
        ("!(a == 'b')", None),
        ("has(a)", None),
        ("a == 'b' || c == 'd'", {("a", "b"), ("c", "d")}),
        ("a == 'b' || has(c)", None),
        ("a in {'b', 'c'} && d == 'e' && has(f)", {("d", "e")}),
        (f"projectcalico.org/orchestrator == 'k8s' && {NAMESPACE} == 'x' && a == 'b'", {(NAMESPACE, "x")}),
        ("projectcalico.org/orchestrator == 'k8s' && a in {'b', 'c'}", {("a", "b"), ("a", "c")}),
    ],
)
def test_labels_of_which_one_is_needed(text: str, needs: set[tuple[str, str]] | None) -> None:
    assert parse_selector(text).needs == needs


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all()", f"has({NAMESPACE})"),
        ("global()", f"!has({NAMESPACE})"),
        ("a == 'b' && !has(c)", '(pcns.a == "b" && !has(pcns.c))'),
        ("a in {'x'} || all()", f'(pcns.a in {{"x"}} || has({NAMESPACE}))'),
    ],
)
def test_labels_under_a_prefix(text: str, wanted: str) -> None:
    assert str(renamed(parse_term(text), "pcns.", Has(NAMESPACE))) == wanted
