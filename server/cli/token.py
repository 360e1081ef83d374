"""``parley token``."""

import json
import time
from pathlib import Path

import rich_click as click

from server.auth.roles import ROLES, SCOPES
from server.cli.errors import USAGE, CliError
from server.cli.options import Duration, with_project
from server.cli.project import DEV_TENANT, Project
from server.settings import Settings


@click.command()
@with_project
@click.option("--user", "user_id", required=True, metavar="U", help="Whose token it is: 1 to 128 characters.")
@click.option("--tenant", "tenant_id", metavar="T", help="The tenant. [default: PARLEY_DEFAULT_TENANT]")
@click.option("--role", type=click.Choice(sorted(ROLES)), default="user", show_default=True, help="The role.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(sorted(SCOPES)),
    multiple=True,
    metavar="S",
    help="A scope beside those of the role; may be repeated.",
)
@click.option(
    "--ttl",
    type=Duration(),
    default="60m",
    show_default=True,
    metavar="TIME",
    help="How long it is good: 90s, 60m, 8h, 30d.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the token and what it says.")
def token(
    place: Path | None,
    user_id: str,
    tenant_id: str | None,
    role: str,
    scopes: tuple[str, ...],
    ttl: int,
    as_json: bool,
) -> None:
    """Print a token for a user, alone on standard output.

    It is signed with PARLEY_JWT_SECRET, or else with the secret that `parley dev` keeps in the project.
    """
    from protocol.errors import Refused
    from server.auth.tokens import TokenVerifier, claim_names_of, issue_token, trust_of

    settings = signing_settings(Project.at(place))
    tenant_id = tenant_id or settings.default_tenant
    if tenant_id is None:
        raise CliError("a token needs a tenant: give --tenant, or set PARLEY_DEFAULT_TENANT.", USAGE)
    now = time.time()
    made = issue_token(
        trust_of(settings),
        user_id=user_id,
        tenant_id=tenant_id,
        role=role,
        scopes=scopes,
        ttl_s=ttl,
        now_s=now,
        claims=claim_names_of(settings),
    )
    try:
        principal = TokenVerifier.from_settings(settings).verify(made, now)
    except Refused as refused:
        raise CliError(f"the server would refuse this token: {refused.message}", USAGE) from None
    if not as_json:
        click.echo(made)
        return
    click.echo(json.dumps({"token": made, **principal.to_wire(), "expires_at": principal.expires_at}))


def signing_settings(project: Project) -> Settings:
    """Return the project's settings with a secret to sign with.

    Raises:
        CliError: there is none.
    """
    settings = project.settings({})
    if settings.jwt_secret is not None:
        return settings
    secret = project.secret()
    if secret is None:
        raise CliError(
            "there is no secret to sign with: set PARLEY_JWT_SECRET to the server's, or name the project "
            "in which `parley dev` has run.",
            USAGE,
        )
    return project.settings({"jwt_secret": secret}, defaults={"default_tenant": DEV_TENANT})
