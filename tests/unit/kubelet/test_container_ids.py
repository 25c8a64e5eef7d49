"""Which ids a container can have."""

import pytest

from podwire.kubelet import oci


@pytest.mark.parametrize(
    ("table", "number", "known"),
    [
        ("         0          0 4294967295\n", 5, True),
        ("         0      20001          1\n", 0, True),
        ("         0      20001          1\n", 5, False),
        ("0 1000 1\n1 100000 65536\n", 65536, True),
        ("0 1000 1\n1 100000 65536\n", 65537, False),
        ("", 0, False),
    ],
)
def test_ids_that_a_user_namespace_knows(table: str, number: int, known: bool) -> None:
    assert oci.is_mapped(table, number) is known
