"""Makes the pictures of the pages from a real server: ``python -m docs.pictures.make``.

``page.png`` is the page of ``parley dev`` in the system's Chromium, ``widget*.png`` the widget on a page of
somebody's, ``chat.svg`` what a terminal shows of ``parley chat`` beside the README's own flow.
"""

import io
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tests.support.browser import running_browser, visit
from tests.support.commands import ROOT, Dev, Terminal
from tests.support.pages import blocks_of
from tests.support.ports import free_port
from tests.support.site import Site
from tests.support.widget import Widget

HERE = Path(__file__).parent
SIZE = {"width": 1180, "height": 700}
WIDGET_SIZE = {"width": 720, "height": 640}
PHONE_SIZE = {"width": 360, "height": 640}
_FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)
_CONTROL = re.compile(r"\x1b\[\?[\d;]*[hl]|\x1b\][^\x07]*\x07|\r|.\x08")


def page(folder: Path) -> None:
    """Book an appointment up to the desk's decision, and photograph it."""
    project = folder / "booking"
    shutil.copytree(ROOT / "examples" / "booking", project, ignore=shutil.ignore_patterns("*.db*", ".parley"))
    with Dev(project, port=free_port()) as dev, running_browser() as browser:
        options: dict[str, Any] = {"viewport": SIZE, "color_scheme": "light", "timezone_id": "Europe/Paris"}
        with visit(browser, dev.url, **options) as visited:
            visited.open()
            visited.state("live")
            for text, answer in (
                ("I need a checkup on 2031-05-20", "Your email?"),
                ("when do you open?", "Your email?"),
                ("ada@example.com", "There are 6 free times. Morning or afternoon?"),
            ):
                visited.say(text)
                visited.until(answer)
            visited.page.wait_for_selector("#requests:not([hidden])")
            visited.page.screenshot(path=HERE / "page.png")
            visited.clean()


def widget(folder: Path) -> None:
    """Book an appointment in the widget, up to the question for a part of the day; greet it elsewhere."""
    project = folder / "widget"
    shutil.copytree(ROOT / "examples" / "booking", project, ignore=shutil.ignore_patterns("*.db*", ".parley"))
    desktop = {"viewport": WIDGET_SIZE, "color_scheme": "light"}
    phone = {"viewport": PHONE_SIZE, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
    booking = (
        ("I need a checkup on 2031-05-20", "Your email?"),
        ("when do you open?", "Your email?"),
        ("ada@example.com", "There are 6 free times. Morning or afternoon?"),
    )
    hello = (("hello", "I can book, move or cancel an appointment. What shall it be?"),)
    with Site() as site, Dev(project, env={"PARLEY_ORIGINS": site.url}) as dev, running_browser() as browser:
        site.server = dev.url
        for name, attributes, options, said, last in (
            ("widget", 'heading="Dr. Lovelace"', desktop, booking, "form"),
            ("widget-phone", 'heading="Dr. Lovelace"', phone, hello, "[part=quick-replies]"),
            ("widget-arabic", 'locale="ar"', desktop, hello, "[part=quick-replies]"),
        ):
            address = site.page(name, f"<parley-chat {attributes}></parley-chat>")
            with visit(browser, address, (site.friend(),), **options, timezone_id="Europe/Paris") as visited:
                shown = Widget(visited)
                shown.open()
                for text, answer in said:
                    shown.panel.get_by_role("textbox").first.fill(text)
                    visited.page.keyboard.press("Enter")
                    shown.until(answer)
                shown.panel.locator(last).last.wait_for()
                visited.page.screenshot(path=HERE / f"{name}.png")
                visited.clean()


def chat(folder: Path) -> None:
    """Book a table in a terminal."""
    flow = next(block.text for block in blocks_of(ROOT / "README.md") if block.language == "yaml")
    (folder / "cafe" / "flows").mkdir(parents=True)
    (folder / "cafe" / "flows" / "book.yaml").write_text(flow, encoding="utf-8")
    lines = (
        ("a table on 2031-05-20, please", "For how many people"),
        ("12", "We seat one to eight"),
        ("4", "A table for 4"),
    )
    with (
        Dev(folder, "cafe") as dev,
        Terminal(["chat", "cafe", "--conversation", "tables"], folder) as terminal,
    ):
        seen = 0
        terminal.shows("> ")
        for text, answer in lines:
            terminal.type(f"{text}\n")
            terminal.shows(f"{answer}[^>]*> ", seen)
            seen = len(terminal.screen.text)
        terminal.type("\x04")
        terminal.wait()
        told = terminal.screen.text.replace(dev.url, "http://127.0.0.1:8765").replace(
            "python -m server", "parley"
        )
    console = Console(record=True, width=72, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ parley chat cafe"))
    console.print(Text.from_ansi(_CONTROL.sub("", told).strip()))
    drawn = console.export_svg(title="parley chat", unique_id="chat")
    (HERE / "chat.svg").write_text(_FONTS.sub("", drawn), encoding="utf-8")  # no fonts from other hosts


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        page(Path(folder))
        widget(Path(folder))
        chat(Path(folder))


if __name__ == "__main__":
    main()
