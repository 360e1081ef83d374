"""Where Redis is and how to get in: what a ``redis://`` or ``rediss://`` URL says."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

DEFAULT_PORT: Final = 6379
FORM: Final = "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB][?OPTION=VALUE&...]"

_SWITCH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server proves who it is, and how we do; files are in PEM.

    The default trusts the CAs of the system.
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a context for connections. Raises OSError (ssl.SSLError) where a file cannot be used."""
        context = ssl.create_default_context(cafile=self.ca_certs)
        if not self.verify or not self.check_hostname:
            context.check_hostname = False
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile, self.password)
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis, or any node of a cluster.

    ``prefix`` stands before every key and channel, so that several Parleys can share a server.
    ``cluster`` None: as the server says of itself. ``tls`` None: not encrypted.
    """

    host: str
    port: int = DEFAULT_PORT
    username: str | None = None
    password: str | None = None
    db: int = 0
    prefix: str = ""
    cluster: bool | None = None
    tls: Tls | None = None

    def __repr__(self) -> str:
        """Return what may be shown."""
        return f"Address({self})"

    def __str__(self) -> str:
        """Return host and port."""
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL. Raises ValueError with a sentence that never repeats what may be a password."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise ValueError(f"is no URL of the form {FORM}") from error
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.fragment:
            raise ValueError(f"is no URL of the form {FORM}")
        options = _options(parts)
        return cls(
            host=unquote(parts.hostname),
            port=port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            db=_db(parts.path, options),
            prefix=options.get("prefix", ""),
            cluster=options.get("cluster"),
            tls=_tls(parts.scheme, options),
        )


def _cluster(value: str) -> bool | None:
    return None if value == "auto" else _SWITCH[value]


_OPTIONS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "db": (int, "a number"),
    "prefix": (str, "text"),
    "cluster": (_cluster, "auto, yes or no"),
    "ssl_ca_certs": (str, "a file"),
    "ssl_certfile": (str, "a file"),
    "ssl_keyfile": (str, "a file"),
    "ssl_password": (str, "text"),
    "ssl_cert_reqs": ({"required": True, "none": False}.__getitem__, "required or none"),
    "ssl_check_hostname": (_SWITCH.__getitem__, "true or false"),
}


def _options(parts: SplitResult) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        known = _OPTIONS.get(name)
        if known is None:
            raise ValueError(f"has an unknown option {name!r}; known are {', '.join(_OPTIONS)}")
        read, expected = known
        try:
            options[name] = read(value)
        except (ValueError, KeyError) as error:
            raise ValueError(f"has the option {name}, which must be {expected}") from error
    return options


def _db(path: str, options: Mapping[str, Any]) -> int:
    named = path.strip("/")
    if not named:
        return int(options.get("db", 0))
    if not named.isdecimal() or "db" in options:
        raise ValueError("names its database once, by a number: redis://HOST/1")
    return int(named)


def _tls(scheme: str, options: Mapping[str, Any]) -> Tls | None:
    given = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    if scheme == "redis":
        if given:
            raise ValueError("has ssl_ options, which need TLS: write rediss:// instead of redis://")
        return None
    if "cert_reqs" in given:
        given["verify"] = given.pop("cert_reqs")
    if ("keyfile" in given or "password" in given) and "certfile" not in given:
        raise ValueError("has ssl_keyfile or ssl_password, which belong to an ssl_certfile")
    return Tls(**given)
