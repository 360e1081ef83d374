"""``parley origins``."""

import json
from typing import Any, Final

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.keyring import HOW_TO, Keyring, Place, with_place
from server.cli.project import Project

OF_WHICH: Final = "The key. [default: the only publishable one]"


@click.group()
def origins() -> None:
    """Tell which pages may connect, and let pages in.

    A page may connect where PARLEY_ORIGINS of the server names its origin, or a publishable key does.
    """


@origins.command()
@click.argument("origin", nargs=-1, required=True)
@click.option("--key", "key_id", metavar="KEY_ID", help=OF_WHICH)
@with_place
def add(origin: tuple[str, ...], key_id: str | None, as_json: bool, **place: Any) -> int:
    """Let pages use a publishable key: scheme, host and port, such as https://shop.example."""
    keyring = Keyring(Place(**place))
    _tell(keyring.change(key_id or _only(keyring), add=origin), as_json)
    return OK


@origins.command()
@click.argument("origin", nargs=-1, required=True)
@click.option("--key", "key_id", metavar="KEY_ID", help=OF_WHICH)
@with_place
def remove(origin: tuple[str, ...], key_id: str | None, as_json: bool, **place: Any) -> int:
    """Let pages use a key no more; their sockets end within 10 seconds."""
    keyring = Keyring(Place(**place))
    _tell(keyring.change(key_id or _only(keyring), remove=origin), as_json)
    return OK


@origins.command(name="list")
@with_place
def list_(as_json: bool, **place: Any) -> int:
    """List the pages that may connect, and what lets them in: a key, or the settings of this project."""
    found = {origin: ["PARLEY_ORIGINS"] for origin in _of_settings(Place(**place))}
    for key in Keyring(Place(**place)).all():
        if key["prefix"] == "pk_" and key["is_active"]:
            for origin in key["origins"]:
                found.setdefault(origin, []).append(key["key_id"])
    if as_json:
        click.echo(json.dumps([{"origin": origin, "by": by} for origin, by in found.items()]))
        return OK
    width = max(map(len, found), default=0)
    for origin, by in found.items():
        click.echo(f"{origin:<{width}}  {' '.join(by)}")
    if not found:
        click.echo(f"no page may connect: there is no publishable key; {HOW_TO}", err=True)
    return OK


def _of_settings(place: Place) -> tuple[str, ...]:
    """Return what the project's settings let in; another server's are not known here."""
    return () if place.url is not None else Project.at(place.project).settings({}).origins


def _only(keyring: Keyring) -> str:
    found = [key for key in keyring.all() if key["prefix"] == "pk_" and key["is_active"]]
    if not found:
        raise CliError(f"there is no publishable key; {HOW_TO}", FAILED)
    if len(found) > 1:
        raise CliError("there are several publishable keys: name one by --key (`parley keys list`).", USAGE)
    key_id: str = found[0]["key_id"]
    return key_id


def _tell(key: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(key) if as_json else f"{key['key_id']}: {' '.join(key['origins'])}")
