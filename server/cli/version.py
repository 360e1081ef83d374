"""``parley version``."""

import platform

import rich_click as click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def version(as_json: bool) -> None:
    """Print the version of Parley; with --json those of Python and the protocol too."""
    from server.version import version as number

    if not as_json:
        click.echo(f"parley {number()}")
        return
    import json

    found = {"version": number(), "protocol": "parley.v1", "python": platform.python_version()}
    click.echo(json.dumps(found))
