"""Who may change the server: whoever reaches it where it listens on loopback alone, unless its owner says otherwise.

A web page that the user looks at can reach loopback as well: by a request across origins, or by a name that its owner
points at 127.0.0.1 (DNS rebinding). A browser gives both away, the first by the Origin header that goes with every
POST, the second by the Host header, which a page cannot set. Clients that are no browsers send no Origin.
Source: RFC 6454 section 7; Fetch standard, "Origin header".
"""

import ipaddress
from typing import Any

from headway.serve.errors import ForbiddenError


class Control:
    """Whether calls that change the server are taken.

    Args:
        allowed: True or False as the user says; None: where `address` is a loopback address.
        address: that the server listens on, as numbers.
    """

    def __init__(self, allowed: bool | None, address: str) -> None:
        self._loopback = ipaddress.ip_address(address).is_loopback
        self._allowed = self._loopback if allowed is None else allowed

    def check(self, headers: Any = None) -> None:
        """Refuse a call that is not to be taken. `headers` are those of an HTTP request, names in lower case.

        Raises:
            ForbiddenError: and why.
        """
        if not self._allowed:
            raise ForbiddenError(
                "callers change nothing here: no models, settings or shared memory regions",
                remedy="The server's owner can allow it: model_control, or headway serve --control.",
            )
        if headers is None:
            return
        if "origin" in headers:
            raise ForbiddenError("a web page may not do this (the request has an Origin header)")
        for host in (headers.get_all("host") or [""]) if self._loopback else ():
            if not _is_loopback(host):
                raise ForbiddenError(
                    f"the Host header names {(host or 'nothing')[:100]!r}, which is not this machine",
                    remedy="Ask localhost or 127.0.0.1.",
                )


def _is_loopback(host: str) -> bool:
    """Whether a Host header, `name` or `name:port`, names this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
