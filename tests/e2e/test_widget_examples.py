"""The pages of examples/widget on an origin of their own, before a real server."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.test_page import project
from tests.support.browser import running_browser, visit
from tests.support.commands import ROOT, Dev
from tests.support.site import KINDS, Site
from tests.support.widget import Widget

PAGES = ROOT / "examples" / "widget"
BUNDLE = ["npm", "--prefix", "clients", "run", "--silent", "examples", "--workspace", "parley-widget"]

pytestmark = pytest.mark.needs("browser")

Opens = Callable[[str], Widget]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = project(tmp_path_factory.mktemp("shop"), "faq")
    with Site(types="vue") as site, Dev(folder, env={"PARLEY_ORIGINS": site.url}) as dev:
        site.server = dev.url
        yield site


@pytest.fixture
def opens(browser: Browser, shop: Site) -> Iterator[Opens]:
    with visit(browser, f"{shop.url}/", (shop.friend(),)) as visited:

        def opened(name: str) -> Widget:
            for path in PAGES.rglob("*.*"):
                body = path.read_bytes().replace(b"http://127.0.0.1:8765", shop.server.encode())
                shop.file(path.relative_to(PAGES).as_posix(), body, KINDS.get(path.suffix, "text/plain"))
            visited.page.goto(f"{shop.url}/{name}")
            return Widget(visited)

        yield opened
        visited.clean()


@pytest.fixture(scope="module")
def bundled() -> None:
    done = subprocess.run(BUNDLE, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def asks_and_hears(widget: Widget) -> None:
    widget.page.get_by_role("button", name="Ask about this chair").click()
    widget.until("Where do you live?")
    expect(widget.page.get_by_role("status").first).to_have_text("The last message: Where do you live?")


def test_plain_html(opens: Opens) -> None:
    asks_and_hears(opens("plain.html"))


@pytest.mark.needs("node")
@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", ["react", "vue"])
def test_a_framework(opens: Opens, name: str) -> None:
    asks_and_hears(opens(f"{name}.html"))


def test_the_page_of_themes_has_every_property_and_changes_them(opens: Opens) -> None:
    widget = opens("theme.html")
    widget.state("live")
    reference = (ROOT / "docs" / "reference" / "widget.md").read_text("utf-8")
    names = widget.page.locator("#properties input").evaluate_all("(all) => all.map((one) => one.name)")
    section = reference.partition("## Custom properties")[2].partition("\n## ")[0]
    assert len(names) == sum(
        cells.split("|")[1].count("`--parley-") for cells in section.splitlines() if "|" in cells
    )
    widget.page.locator("[name='--parley-surface']").fill("#123456")
    widget.page.locator("[name='--parley-radius']").fill("7px")
    header = widget.panel.locator("header")
    expect(header).to_have_css("background-color", "rgb(18, 52, 86)")
    expect(widget.panel).to_have_css("border-radius", "7px")
    expect(widget.page.locator("#css")).to_contain_text("--parley-radius: 7px;")
