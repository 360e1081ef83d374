"""Where a command that is a client finds the server and a token: flags, environment, or the project."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import rich_click as click

from server.cli.errors import FAILED, UNREACHABLE, USAGE, CliError
from server.cli.project import DEV_TENANT, DEV_USER, Project
from server.settings import Settings

if TYPE_CHECKING:
    from parley_client import AsyncParley, ParleyError

TOKEN_TTL_S: Final = 3600

T = TypeVar("T")
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Access(NamedTuple):
    """A server's URL, and a token or what makes fresh ones."""

    url: str
    token: str | Callable[[], str]

    def token_text(self) -> str:
        """Return a token that is good now."""
        return self.token() if callable(self.token) else self.token


WAIT_S: Final = 5.0
"""How long a command tries to reach a server."""

DEVELOPER: Final = ("conversations:inspect", "conversations:read", "conversations:write")
"""What whoever holds the project's secret may do in its conversations."""


def with_access(command: _Command) -> _Command:
    """Add the options ``url``, ``token`` and ``user_id``."""
    for option in (
        click.option(
            "--token",
            metavar="TOKEN",
            envvar="PARLEY_TOKEN",
            help="Your token; better given as PARLEY_TOKEN. [default: made with the project's secret]",
        ),
        click.option(
            "--url",
            metavar="URL",
            envvar="PARLEY_URL",
            help="The server. [default: PARLEY_URL, else the project's `dev`]",
        ),
        click.option(
            "--user",
            "user_id",
            metavar="U",
            default=DEV_USER,
            show_default=True,
            help="Who you are, where the token is made here.",
        ),
    ):
        command = option(command)
    return command


def access_to(
    project: Project,
    command: str,
    *,
    url: str | None,
    token: str | None,
    user_id: str,
    tenant_id: str | None = None,
    role: str = "user",
    scopes: tuple[str, ...] = (),
) -> Access:
    """Return how to reach the server of ``project``, unless URL and token say otherwise.

    Raises:
        CliError: there is nothing to make a token with.
    """
    settings = project.settings({})
    if token is None and settings.jwt_secret is None:
        secret = project.secret()
        if secret is None:
            named = "PROJECT" if command == "chat" else "--project FOLDER"
            raise CliError(
                "there is no token: go to the folder in which `parley dev` runs (or name it: `parley "
                f"{command} {named}`), set PARLEY_TOKEN, or set PARLEY_JWT_SECRET to the server's.",
                USAGE,
            )
        settings = project.settings({"jwt_secret": secret}, defaults={"default_tenant": DEV_TENANT})
    if tenant_id is not None:
        settings = settings.model_copy(update={"default_tenant": tenant_id})
    if token is None and settings.default_tenant is None:
        raise CliError(
            "there is no tenant to be in: set PARLEY_DEFAULT_TENANT, or a PARLEY_TOKEN that names one.",
            USAGE,
        )
    return Access(
        url or project.address() or _url_of(settings), token or _signer(settings, user_id, role, scopes)
    )


def _signer(settings: Settings, user_id: str, role: str, scopes: tuple[str, ...]) -> Callable[[], str]:
    from server.auth.tokens import claim_names_of, issue_token, trust_of

    trust, names = trust_of(settings), claim_names_of(settings)

    def sign() -> str:
        return issue_token(
            trust,
            user_id=user_id,
            tenant_id=settings.default_tenant,
            role=role,
            scopes=scopes,
            ttl_s=TOKEN_TTL_S,
            now_s=time.time(),
            claims=names,
        )

    return sign


def _url_of(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{host}:{settings.port}"


def why_ended(url: str, error: "ParleyError") -> str:
    """Return what went wrong with a server, and what to do."""
    from parley_client import ConnectionLost, Unauthorized

    if isinstance(error, ConnectionLost):
        return f"nothing answers at {url}: start `parley dev`, or name another server by --url."
    hint = f" {error.suggestion}" if error.suggestion else ""
    if isinstance(error, Unauthorized):
        return f"the server at {url} does not take the token: {error.message}{hint}"
    return f"{error.message}{hint}"


def run_client(access: Access, wait_s: float, use: "Callable[[AsyncParley], Awaitable[T]]") -> T:
    """Connect, let ``use`` work, and return what it returns.

    Raises:
        CliError: the server cannot be reached, or refuses.
    """
    from parley_client import AsyncParley, ParleyError, Refused, Unauthorized

    async def work() -> T:
        async with AsyncParley(access.url, access.token, open_timeout=wait_s) as parley:
            return await use(parley)

    try:
        return asyncio.run(work())
    except ValueError as error:
        raise CliError(f"{error}.", USAGE) from None
    except Unauthorized as error:
        raise CliError(why_ended(access.url, error), UNREACHABLE) from None
    except Refused as refused:
        hint = f" {refused.suggestion}" if refused.suggestion else ""
        raise CliError(f"{refused.message}{hint}", FAILED) from None
    except ParleyError as error:
        raise CliError(why_ended(access.url, error), UNREACHABLE) from None
