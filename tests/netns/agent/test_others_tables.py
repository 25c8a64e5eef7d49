"""Tables that somebody else made are theirs: a site's firewall stays byte for byte, and what it drops is dropped."""

from __future__ import annotations

from typing import Any

FOREIGN = """\
table inet site {
	set quiet {
		type ipv4_addr
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip daddr @quiet counter drop
	}
	chain input {
		type filter hook input priority raw - 10; policy accept;
		udp dport 4789 counter
	}
}
table ip podwireish {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
table arp site {
	chain input {
		type filter hook input priority filter; policy accept;
	}
}
"""


def test_others_tables_stay(world: Any, tools: Any) -> None:
    """Over a pod's life, a restart and a repair of our own tables."""
    node = world.nodes[0]

    def foreign() -> list[str]:
        names = (("inet", "site"), ("ip", "podwireish"), ("arp", "site"))
        return [node.space.run("nft", "-s", "-a", "list", "table", *name) for name in names]

    tools.netns.run_inside(node.space.fd, lambda: tools.nft.run(FOREIGN))
    a, b = node.pod("a").add(), node.pod("b").add()
    before = foreign()
    assert tools.talk(a.space, b.space, b.address) == a.address
    node.space.run("nft", "delete", "table", "inet", "podwire")
    tools.until("repaired", lambda: "table inet podwire\n" in node.space.run("nft", "list", "tables"))
    node.restart()
    a.delete()
    assert foreign() == before
    c = node.pod("c").add()
    node.space.run("nft", "add", "element", "inet", "site", "quiet", f"{{ {b.address} }}")
    with c.space.socket() as client, b.space.listen(b.address):
        client.settimeout(0.3)
        assert client.connect_ex((b.address, 8080)) != 0
