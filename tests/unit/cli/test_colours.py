"""Colours in a terminal, none where the output is piped."""

import click
import pytest

from server.cli.colours import flow_problem, mark


def test_what_is_printed_to_a_pipe_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    click.echo(mark("problem"))
    click.echo(flow_problem("a.yaml:3:4: error [syntax] no"))
    assert capsys.readouterr().out == "PROBLEM\na.yaml:3:4: error [syntax] no\n"


def test_a_terminal_gets_colours(capsys: pytest.CaptureFixture[str]) -> None:
    click.echo(flow_problem("a.yaml:3:4: warning [w] hm"), color=True)
    shown = capsys.readouterr().out
    assert "\x1b[33mwarning" in shown
    assert click.unstyle(shown) == "a.yaml:3:4: warning [w] hm\n"


def test_other_lines_are_left_alone() -> None:
    assert flow_problem("no place: error") == "no place: error"
