"""Which proxy a request goes through, as the environment says: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from augment.errors import UnavailableError
from augment.redact import redact

if TYPE_CHECKING:
    import httpcore


def proxy_for(url: str) -> httpcore.Proxy | None:
    """The proxy for an address, None for a direct connection. Raises UnavailableError if it cannot be used."""
    import httpcore

    parts = urlsplit(url)
    proxies = getproxies()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    address = proxies.get(scheme)
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    name = f"{scheme.upper()}_PROXY"
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme.startswith("socks"):
        if importlib.util.find_spec("socksio") is None:
            raise UnavailableError(
                f"{name} is a SOCKS proxy, and the package for it is not installed: pip install socksio, or put "
                f"{parts.hostname} into NO_PROXY"
            )
        kind = "socks5"
    elif proxy.scheme in ("http", "https"):
        kind = proxy.scheme
    else:
        raise UnavailableError(f"{name}: {redact(address)} is not an HTTP or SOCKS proxy")
    try:
        port = proxy.port
    except ValueError:
        port = None
    if not proxy.hostname:
        raise UnavailableError(f"{name}: {redact(address)} is not the address of a proxy")
    host = f"[{proxy.hostname}]" if ":" in proxy.hostname else proxy.hostname
    default = {"http": 80, "https": 443, "socks5": 1080}[kind]
    auth = (unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None
    return httpcore.Proxy(f"{kind}://{host}:{port or default}", auth=auth)
