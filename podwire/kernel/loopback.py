"""`python -m podwire.kernel.loopback`: raise lo in this network namespace, where there is no `ip` to do it."""

from podwire.kernel.links import RouteSocket


def raise_loopback() -> None:
    """Raises KernelError."""
    with RouteSocket() as socket:
        link = socket.link("lo")
        if link is not None and not link.up:
            socket.set_link(link.index, up=True)


if __name__ == "__main__":
    raise_loopback()
