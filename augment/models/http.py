"""A bounded HTTP client, the only one that backends behind a server use.

A request never follows a redirect, its reply has to be complete by a deadline, and no more than a given number of bytes
of it are kept, counted after decompression. It is built on httpcore, which is what httpx is built on.
"""

from __future__ import annotations

import ipaddress
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.calling import PASSING, NoServer, PassingFault, pause_asked_for
from augment.models.deadlines import Clock, deadline_backend
from augment.models.proxies import proxy_for
from augment.models.weights import check_libraries
from augment.redact import redact

if TYPE_CHECKING:
    import httpcore

MEGABYTE = 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LONGEST_WORDS = 300  # characters of a server's message that are quoted
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def check_address(setting: str, address: str) -> None:
    """Raise RecipeError, without quoting the secret, if an address is not one, or if it holds a login or a query."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise RecipeError(f"{setting}: it is not an address; write it as http://host:port/path") from None
    if "@" in address:
        raise RecipeError(
            f"{setting}: it holds a user name or password, which would be kept in recipes and caches; "
            "leave it out of the address and set it in the environment (see the backend's description)"
        )
    if parts.query or parts.fragment:
        raise RecipeError(f"{setting}: it has a query (“?…”), which may hold a key; leave that out of the address")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError(f"{setting}: {address!r} is not an address; write it as http://host:port/path")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Reply:
    """What a server answered: the status, its headers by lower-case name, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError, in words, if it is none."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None
        except ValueError:
            if self.is_page:
                raise ValueError(f"a web page and not JSON ({self.words})") from None
            raise ValueError("not JSON" if self.body.strip() else "an empty reply") from None

    @property
    def is_page(self) -> bool:
        """Whether it is HTML."""
        return "html" in self.headers.get("content-type", "") or self.body.lstrip()[:1] == b"<"

    @property
    def message(self) -> str:
        """What it says, in one line: the message in an error, or the text of a page. Known secrets are hidden in it."""
        text = self.body[: 64 * 1024].decode(errors="replace")
        try:
            said = _message(json.loads(self.body))
        except (ValueError, RecursionError):
            said = _TAGS.sub(" ", text) if self.is_page else text
        return redact(" ".join(said.split())) or "an empty reply"

    @property
    def words(self) -> str:
        """The beginning of its message, to be quoted."""
        return self.message[:_LONGEST_WORDS]


def _message(content: Any) -> str:
    """The message in an error as servers put it: OpenAI's, Gemini's list, FastAPI's "detail", WebUI's "errors"."""
    if isinstance(content, list) and content:
        return "; ".join(_message(one) for one in content[:3])
    if isinstance(content, dict):
        for name in ("errors", "message", "msg", "detail", "error"):
            if content.get(name):
                place = content.get("loc")
                where = f"{'.'.join(map(str, place))}: " if isinstance(place, list) else ""
                return where + _message(content[name])
    return str(content)


class Server:
    """One server at one address, through its proxy if the environment names one (never for this machine itself).

    Args:
        base_url: the address that paths are appended to.
        headers: sent with every request.
        connections: requests in flight at once.

    Raises UnavailableError if a library is missing, or a header or the proxy cannot be used.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None, connections: int = 1) -> None:
        check_libraries(["httpcore", "tenacity"])
        self.base_url = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._clock = Clock()
        host = urlsplit(base_url).hostname or ""
        proxy = None if is_loopback(host) else proxy_for(base_url)
        self._pool = self._open(proxy, connections)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def __del__(self) -> None:
        if "_pool" in self.__dict__:  # and not refused while it was built
            self.close()

    def get(self, path: str, seconds: float, limit: int = 8 * MEGABYTE, base_url: str | None = None) -> Reply:
        """The reply to a GET; see `request`."""
        return self.request("GET", f"{base_url or self.base_url}{path}", None, seconds, limit)

    def post(self, path: str, payload: Any, seconds: float, limit: int = 8 * MEGABYTE) -> Reply:
        """The reply to JSON that is posted; see `request`."""
        return self.request("POST", f"{self.base_url}{path}", json.dumps(payload).encode(), seconds, limit)

    def request(
        self, method: str, url: str, body: bytes | None, seconds: float, limit: int, kind: str = "application/json"
    ) -> Reply:
        """The reply, of whatever status, complete within `seconds` and of at most `limit` bytes; `kind` is the body's.

        Raises NoServer if nothing answers, PassingFault if the reply breaks off, UnavailableError for a redirect, and
        ItemFailed for a reply that is too slow or too large.
        """
        import httpcore

        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "augment"}
        headers |= self._headers | ({} if body is None else {"Content-Type": kind})
        self._clock.start(seconds)
        timeouts = {"pool": seconds, "connect": seconds, "read": seconds, "write": seconds}
        try:
            with self._pool.stream(
                method, url, headers=list(headers.items()), content=body, extensions={"timeout": timeouts}
            ) as response:
                return self._read(response, limit)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.ProxyError) as error:
            raise NoServer(f"{self.base_url}: no server answers there ({error or type(error).__name__})") from error
        except httpcore.TimeoutException as error:
            # The server is still at it: asking again would only put more work in its queue.
            raise ItemFailed(f"{self.base_url}: no whole answer in {seconds:g} s; raise timeout") from error
        except (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol, UnicodeEncodeError) as error:
            raise UnavailableError(f"{self.base_url}: the request cannot be sent: {error}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, zlib.error) as error:
            raise PassingFault(f"{self.base_url}: it broke off its reply ({error})") from error
        finally:
            self._clock.stop()

    def fault(self, reply: Reply) -> ItemFailed:
        """What a reply that is no success means for one item, in the server's own words."""
        said = f"{self.base_url}: HTTP {reply.status}: {reply.words}"
        if reply.status in PASSING:
            return PassingFault(said, pause_asked_for(reply.headers.get("retry-after")))
        return ItemFailed(said)

    def _read(self, response: httpcore.Response, limit: int) -> Reply:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS:
            raise UnavailableError(
                f"{self.base_url}: it redirects (HTTP {response.status}) to {headers.get('location', '?')[:200]}, and "
                "redirects are not followed: set base_url to the server's own address"
            )
        body = bytearray()
        for chunk in _decompressed(response.iter_stream(), headers.get("content-encoding", "identity"), limit):
            body += chunk
            if len(body) > limit:
                raise ItemFailed(f"{self.base_url}: its reply is larger than {limit / MEGABYTE:.0f} MB; not read")
        return Reply(response.status, headers, bytes(body))

    def _open(self, proxy: httpcore.Proxy | None, connections: int) -> httpcore.ConnectionPool:
        import httpcore

        return httpcore.ConnectionPool(
            proxy=proxy, max_connections=connections, network_backend=deadline_backend(self._clock)
        )


def _decompressed(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterable[bytes]:
    """The chunks of a body, decompressed a megabyte at a time; servers may compress without being asked to."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        yield from chunks
        return
    if name not in ("gzip", "x-gzip", "deflate"):
        raise ItemFailed(f"a reply that is compressed as {name!r}, which was not asked for")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    for chunk in chunks:
        waiting = chunk
        while waiting:
            yield stream.decompress(waiting, min(limit + 1, MEGABYTE))
            waiting = stream.unconsumed_tail
    yield stream.flush()
