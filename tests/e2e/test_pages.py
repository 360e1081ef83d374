"""Each page that one is to follow is followed: the README, the tutorial, the how-tos. A new page is, too."""

from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tests.support.pages import Reader

PAGES = [
    ROOT / "README.md",
    ROOT / "examples/faq/README.md",
    *sorted(ROOT.glob("docs/tutorial/*.md")),
    *sorted(ROOT.glob("docs/how-to/*.md")),
]
"""What other examples say is done by their own tests: somebody has to decide meanwhile."""


@pytest.mark.parametrize("page", PAGES, ids=[f"{page.parent.name}/{page.stem}" for page in PAGES])
def test_a_page_can_be_followed_to_the_letter(page: Path, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        assert reader.follow(page) > 0
