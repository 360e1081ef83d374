"""Each page that one is to follow is followed: the README, the tutorial, the how-tos. A new page is, too.

That is, where it has commands. What pages for front ends have of JavaScript and HTML is run in a browser, by
``tests/integration/test_javascript.py`` and ``tests/e2e/test_widget_examples.py``.
"""

from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tests.support.mongo import MongoServer
from tests.support.pages import Reader
from tests.support.redis import RedisServer

PAGES = [
    ROOT / "README.md",
    ROOT / "examples/faq/README.md",
    *sorted(ROOT.glob("docs/tutorial/*.md")),
    *sorted(ROOT.glob("docs/how-to/*.md")),
]
"""What other examples say is done by their own tests: somebody has to decide meanwhile."""


SEVERAL = ROOT / "docs/how-to/scale-out.md"
"""This one finds a MongoDB and a Redis running."""


@pytest.mark.needs("mongo", "redis", "nginx")
def test_the_page_about_several_instances_can_be_followed_to_the_letter(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    services = {"27017": str(mongo_server.port), "6379": str(redis_server.port)}
    folder = tmp_path / "reader"
    folder.mkdir()
    with Reader(folder, services) as reader:
        assert reader.follow(SEVERAL) > 3


ALONE = [page for page in PAGES if page != SEVERAL and "```sh" in page.read_text()]


@pytest.mark.parametrize("page", ALONE, ids=[f"{page.parent.name}/{page.stem}" for page in ALONE])
def test_a_page_can_be_followed_to_the_letter(page: Path, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        assert reader.follow(page) > 0
