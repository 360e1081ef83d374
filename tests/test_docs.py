"""What the pages say is true: snippets compile, commands exist, links lead somewhere."""

import ast
import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from server.cli.group import COMMANDS, command
from server.engine.flow.loader import compile_flow
from server.settings import CLIENT_NAMES, TEST_PREFIX, Settings
from server.testing.reader import read_suite
from tests.support.pages import blocks_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/README.md"),
        *ROOT.glob("clients/*/README.md"),
    ]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SETTING = re.compile(r"\bPARLEY_[A-Z_]+[A-Z]\b")


class Snippet(NamedTuple):
    """A fenced block; ``line`` is its first line in the page, ``needs`` what a test has not."""

    page: Path
    line: int
    language: str
    text: str
    needs: str | None


def snippets_of(page: Path) -> Iterator[Snippet]:
    for block in blocks_of(page):
        yield Snippet(page, block.line, block.language, block.text, block.needs)


SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]


def each(*languages: str, needs: bool = False) -> pytest.MarkDecorator:
    found = [s for s in SNIPPETS if s.language in languages and bool(s.needs) is needs]
    names = [f"{snippet.page.relative_to(ROOT)}:{snippet.line}" for snippet in found]
    return pytest.mark.parametrize("snippet", found, ids=names)


each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def commands_of(snippet: Snippet) -> Iterator[list[str]]:
    """Yield each command as words, without variables before it and without ``export NAME="..."``."""
    for line in snippet.text.splitlines():
        inner = re.sub(r'^export \w+="(?:\$\((.*)\)|[^$]*)"$', r"\1", line)
        words = shlex.split(inner, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_fenced_block_says_what_it_is() -> None:
    known = {"sh", "console", "yaml", "toml", "python", "text", "json", "ini", "nginx"}
    known |= {"js", "ts", "html", "css"}
    assert [snippet for snippet in SNIPPETS if snippet.language not in known] == []


@each("yaml")
def test_a_flow_on_a_page_compiles_and_a_test_is_one(snippet: Snippet) -> None:
    if re.search(r"^tests:", snippet.text, re.MULTILINE):
        read_suite(snippet.text, snippet.page.name)
    else:
        assert not compile_flow(snippet.text, snippet.page.name).warnings


@each("python")
def test_python_on_a_page_is_python(snippet: Snippet) -> None:
    ast.parse(snippet.text)


@each("toml")
def test_settings_on_a_page_are_settings(snippet: Snippet) -> None:
    assert tomllib.loads(snippet.text).keys() <= Settings.model_fields.keys()


@each("sh", "console")
def test_a_command_on_a_page_can_be_typed(snippet: Snippet) -> None:
    for words in commands_of(snippet):
        match words:
            case ["make", *arguments]:
                assert {word for word in arguments if "=" not in word} <= targets()
            case [".venv/bin/parley" | "parley", name, *arguments]:
                assert name in COMMANDS
                command(name).make_context(name, arguments)  # raises where an option is unknown
            case ["python", "-m", "http.server", *_, "--directory", folder]:
                assert (ROOT / folder).is_dir()
            case ["npm", "--prefix", "clients", "run", script, "--workspace", "parley-widget"]:
                assert script in json.loads((ROOT / "clients/widget/package.json").read_text())["scripts"]
            case [".venv/bin/python" | "python", program, *_]:
                assert program in {block.file for block in blocks_of(snippet.page)}
            case ["openssl", "rand", "-hex", _]:
                continue
            case [".venv/bin/pip" | "pip" | "npm", "install", *_]:
                continue
            case ["mkdir", "-p", _]:
                continue
            case ["cp", source, _]:
                assert (ROOT / source).exists()
            case ["nginx", *_, "-g", "daemon off;"]:
                continue
            case _:
                pytest.fail(f"{snippet.page.name}: nobody checks {shlex.join(words)}")


@each("sh", "console", needs=True)
def test_a_command_that_needs_docker_or_a_cluster_names_what_there_is(snippet: Snippet) -> None:
    compose = YAML(typ="safe").load(ROOT / "docker-compose.yml")
    assert snippet.needs in {"docker", "cluster"}
    for words in commands_of(snippet):
        match words:
            case ["cp", source, _]:
                assert (ROOT / source).exists()
            case ["docker", "compose", "up", *options]:
                scaled = [option.partition("=")[0] for option in options if "=" in option]
                assert set(scaled) <= compose["services"].keys()
                flags = {option for option in options if option.startswith("--")}
                assert flags <= {"--build", "--detach", "--wait", "--scale", "--no-recreate"}
            case ["docker", "compose", "exec", "-T", "-e", _, service, "parley", name, *arguments]:
                assert service in compose["services"]
                command(name).make_context(name, arguments)
            case ["docker", "compose", "exec", "-T", service, "parley", name, *arguments]:
                assert service in compose["services"]
                command(name).make_context(name, arguments)
            case ["docker", "compose", "logs" | "restart", *services]:
                assert set(services) <= compose["services"].keys()
            case ["docker", "compose", "down", *_] | ["docker", "build" | "push", *_]:
                continue
            case ["kubectl", "apply" | "kustomize", *options]:
                assert (ROOT / options[-1] / "kustomization.yaml").exists()
            case ["kubectl", "rollout", "status" | "restart", target]:
                assert target == "deployment/parley"
            case _:
                pytest.fail(f"{snippet.page.name}: nobody checks {shlex.join(words)}")


@each("ini")
def test_a_unit_on_a_page_runs_a_command_that_can_be_typed(snippet: Snippet) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(snippet.text)
    program, name, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "parley"
    command(name).make_context(name, [word for word in arguments if not word.startswith("/")])


@each("nginx")
def test_a_proxys_configuration_passes_sockets_on(snippet: Snippet) -> None:
    if "location" not in snippet.text:
        return  # a part of deploy/nginx, which a reader runs
    assert snippet.text.count("{") == snippet.text.count("}")
    assert f":{Settings.model_fields['port'].default};" in snippet.text
    assert "proxy_set_header Upgrade $http_upgrade;" in snippet.text
    assert re.search(r"location = /metrics \{\s+return 404;", snippet.text)


@each("html", "css")
def test_the_widget_on_a_page_has_attributes_and_properties_that_there_are(snippet: Snippet) -> None:
    reference = (ROOT / "docs/reference/widget.md").read_text("utf-8")
    used = re.findall(r"(--parley-[\w-]+)", snippet.text)
    for tag in re.findall(r"<parley-chat([^>]*)>", snippet.text):
        used += set(re.findall(r"([\w-]+)(?:=|\s|$)", re.sub(r'"[^"]*"', "", tag))) - {"id"}
    for name in (*used, *re.findall(r"\"(parley-[a-z]+)\"", snippet.text)):
        assert f"`{name}`" in reference or name == "parley-chat", name


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    wanted = set(ROOT.glob("docs/*/*.md")) - set(ROOT.glob("docs/decisions/0*.md"))
    assert sorted(wanted - linked) == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_settings_that_a_page_names_exist(page: Path) -> None:
    named = {name for name in SETTING.findall(page.read_text()) if not name.startswith(TEST_PREFIX)}
    named -= CLIENT_NAMES
    assert {name.removeprefix("PARLEY_").lower() for name in named} <= Settings.model_fields.keys()


def test_what_the_coverage_table_points_at_exists() -> None:
    """Paths in its second and third columns are files or folders; a folder of tests has tests in it."""
    text = (ROOT / "docs/reference/coverage.md").read_text()
    rooms = r"`((?:server|storage|protocol|tests|examples|clients)/?[\w/.]*)`"
    named = {path for line in text.splitlines() if line.startswith("|") for path in re.findall(rooms, line)}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
    empty = [path for path in named if path.startswith("tests/") and not path.endswith(".py")]
    assert sorted(path for path in empty if not list((ROOT / path).rglob("test_*.py"))) == []
