"""The built widget: it is what its sources build, small enough, and in the distribution.

What is committed is checked here without Node, by the hashes of the sources that it was built of. With Node,
``make check`` builds it again and compares byte by byte, and ``make test`` runs the widget's own tests.
"""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "server" / "widget"
FILES = json.loads((BUILT / "files.json").read_text("utf-8"))
LIMITS = {"widget.js": 5 * 1024, FILES["parts"]["chat"]: 35 * 1024}


def test_what_is_committed_was_built_of_these_sources() -> None:
    """``make widget`` after a change of the widget or the JavaScript SDK."""
    now = {path: hashlib.sha256((ROOT / path).read_bytes()).hexdigest() for path in FILES["sources"]}
    assert now == FILES["sources"], "run `make widget` and commit server/widget"


def test_only_what_was_built_is_there() -> None:
    scripts = {path.name for path in BUILT.glob("*.js")}
    assert scripts == {"widget.js", *FILES["parts"].values()}
    for name in FILES["parts"].values():
        assert (
            hashlib.sha256((BUILT / name).read_bytes())
            .hexdigest()
            .startswith(re.findall(r"-(\w+)\.js", name)[0])
        )


@pytest.mark.parametrize("name", LIMITS)
def test_it_is_small(name: str) -> None:
    assert len(gzip.compress((BUILT / name).read_bytes(), 9)) <= LIMITS[name]


def test_it_never_parses_markup() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|DOMParser|ContextualFragment"
    code = r"srcdoc|\beval\b|new Function"
    for path in BUILT.glob("*.js"):
        assert re.findall(f"{markup}|{code}", path.read_text("utf-8")) == [], path.name


REFERENCE = (ROOT / "docs" / "reference" / "widget.md").read_text("utf-8")
SOURCES = ROOT / "clients" / "widget" / "src"


def section(name: str) -> str:
    return REFERENCE.partition(f"## {name}\n")[2].partition("\n## ")[0]


def test_the_reference_lists_the_custom_properties_with_what_they_are_without_a_page() -> None:
    css = (SOURCES / "launcher" / "launcher.css").read_text("utf-8")
    declared = dict(re.findall(r"var\((--parley-[\w-]+), (.+)\);", css))
    rows = [
        [cell.strip() for cell in row.split("|")[1:5]] for row in section("Custom properties").splitlines()
    ]
    told = {}
    for names, light, dark, _ in (row for row in rows if len(row) == 4 and "--parley" in row[0]):
        for at, name in enumerate(re.findall(r"--[\w-]+", names)):
            told[name] = [
                re.findall("`(.+?)`", cell)[min(at, cell.count("`") // 2 - 1)] for cell in (light, dark)
            ]
    assert set(told) == set(declared)
    for name, value in declared.items():
        pair = re.fullmatch(r"light-dark\((.+), (.+)\)", value)
        both = list(pair.groups()) if pair else [value, value]
        assert told[name] == [each.replace("var(--ink)", "--parley-text") for each in both], name
    others = "".join(
        path.read_text("utf-8") for path in SOURCES.rglob("*.css") if path.name != "launcher.css"
    )
    assert "--parley-" not in others


def test_the_reference_lists_the_attributes_parts_and_words() -> None:
    element = (SOURCES / "launcher" / "element.ts").read_text("utf-8")
    observed = re.findall(r'"(\w+)"', element.partition("observedAttributes = [")[2].partition("]")[0])
    attributes = set(re.findall(r"^\| `(\w+)` \|", section("Attributes"), re.MULTILINE))
    assert attributes == {*observed, "theme", "side"}
    sources = "".join(path.read_text("utf-8") for path in SOURCES.rglob("*.ts"))
    parts = set(re.findall(r"`([\w-]+)`", section("Parts").partition(":")[2]))
    made = " ".join(re.findall(r'(?:part: |part\.add\()["`]([^"`$]+)', sources)).split()
    assert {part for part in made if not part.endswith("-")} <= parts
    words = (
        (SOURCES / "chat" / "words.ts")
        .read_text("utf-8")
        .partition("const ENGLISH = {")[2]
        .partition("};")[0]
    )
    named = set(re.findall(r"`(\w+)`", section("Properties and methods").partition("The names of")[2]))
    assert set(re.findall(r"^  (\w+):", words, re.MULTILINE)) <= named


def test_the_reference_lists_the_events() -> None:
    sources = "".join(path.read_text("utf-8") for path in SOURCES.rglob("*.ts"))
    assert set(re.findall(r'"(parley-[a-z]+)"', sources)) - {"parley-chat", "parley-client"} == set(
        re.findall(r"`(parley-[a-z]+)`", section("Events"))
    )
