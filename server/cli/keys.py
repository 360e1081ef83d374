"""``parley keys``."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import rich_click as click

from server.auth.roles import ROLES, SCOPES, TIERS
from server.cli.errors import OK
from server.cli.keyring import HOW_TO, Keyring, Place, with_place
from server.cli.options import Duration


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys.

    A publishable key (pk_) stands in a page and makes visitors there, from the origins that it names. A
    secret key (sk_) is a credential of a server. Where a server has the store, it is asked; otherwise the
    store is opened for a moment.
    """


@keys.command()
@click.option("--publishable", is_flag=True, help="A key for pages; without it, a secret key for servers.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A page's scheme, host and port, such as https://shop.example; may be repeated.",
)
@click.option("--name", metavar="NAME", help="For people. [default: the first origin]")
@click.option("--description", metavar="TEXT", default="", help="For people: what it is for.")
@click.option(
    "--tier",
    type=click.Choice(sorted(TIERS)),
    default="standard",
    show_default=True,
    help="The tier of what is made with it.",
)
@click.option(
    "--rate-limit",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Visitors a minute, of a publishable key. [default: the tier's]",
)
@click.option("--expires", type=Duration(), metavar="TIME", help="After which time it ends: 8h, 90d.")
@click.option("--user", "user_id", metavar="U", help="Who a secret key is. [default: key: and its id]")
@click.option("--role", type=click.Choice(sorted(ROLES)), help="The role of a secret key. [default: service]")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(sorted(SCOPES)),
    multiple=True,
    metavar="S",
    help="A scope of a secret key beside those of its role; may be repeated.",
)
@with_place
def create(
    publishable: bool,
    origins: tuple[str, ...],
    name: str | None,
    description: str,
    tier: str,
    rate_limit: int | None,
    expires: int | None,
    user_id: str | None,
    role: str | None,
    scopes: tuple[str, ...],
    as_json: bool,
    **place: Any,
) -> int:
    """Make a key, and print it alone on standard output: it is shown this once."""
    wanted: dict[str, Any] = {
        "publishable": publishable,
        "name": name,
        "description": description,
        "origins": list(origins),
        "tier": tier,
        "rate_limit_per_minute": rate_limit,
        "expires_at": None if expires is None else _in(expires),
        "user_id": user_id,
        "scopes": list(scopes),
    }
    if role is not None:
        wanted["role"] = role
    _show_made(Keyring(Place(**place)).create(wanted), "made", as_json)
    return OK


@keys.command(name="list")
@with_place
def list_(as_json: bool, **place: Any) -> int:
    """List the tenant's keys, the newest first, revoked ones too."""
    found = Keyring(Place(**place)).all()
    if as_json:
        click.echo(json.dumps(found))
    elif found:
        click.echo("\n".join(_table(found)))
    else:
        click.echo(f"there are no keys; {HOW_TO}", err=True)
    return OK


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@with_place
def show(key_id: str, as_json: bool, **place: Any) -> int:
    """Show one key; its text is not kept."""
    key = Keyring(Place(**place)).show(key_id)
    click.echo(json.dumps(key) if as_json else "\n".join(_lines(key)))
    return OK


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@with_place
def revoke(key_id: str, as_json: bool, **place: Any) -> int:
    """Revoke a key, for good. Visitors made with it are sent away within 10 seconds."""
    Keyring(Place(**place)).revoke(key_id)
    click.echo(json.dumps({"key_id": key_id, "is_active": False}) if as_json else f"revoked {key_id}")
    return OK


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@with_place
def rotate(key_id: str, as_json: bool, **place: Any) -> int:
    """Give a key a new text, and print that; the former one works no more. Visitors stay."""
    _show_made(Keyring(Place(**place)).rotate(key_id), "rotated", as_json)
    return OK


def _show_made(made: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(made))
        return
    pages = f" for {', '.join(made['origins'])}" if made["origins"] else ""
    whose = f"{made['key_id']} of tenant {made['tenant_id']}{pages}"
    click.echo(f"{what} {whose}; it is shown this once:", err=True)
    click.echo(made["key"])


def _in(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _table(keys: Iterable[dict[str, Any]]) -> list[str]:
    rows = [
        [key["key_id"], key["prefix"], _state(key), key["last_used_at"] or "never used", key["name"],
         " ".join(key["origins"])]
        for key in keys
    ]  # fmt: skip
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    padded = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]


def _state(key: dict[str, Any]) -> str:
    if not key["is_active"]:
        return "revoked"
    expires_at = key["expires_at"]
    if expires_at is None:
        return "active"
    return "expired" if datetime.fromisoformat(expires_at) <= datetime.now(UTC) else f"until {expires_at}"


def _lines(key: dict[str, Any]) -> list[str]:
    width = max(map(len, key))
    names = {name: click.style(f"{name:<{width}}", fg="cyan") for name in key}
    return [f"{names[name]}  {_text(value)}".rstrip() for name, value in key.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return "" if value is None else str(value)
