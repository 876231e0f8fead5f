"""The documentation builds as a site without warnings, and the site needs no other server."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site: a broken link or anchor, and a page that is not in the navigation, fail."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "NO_MKDOCS_2_WARNING": "true"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser fetches to show a page, and the text of its paragraphs."""

    def __init__(self):
        super().__init__()
        self.addresses, self.paragraphs, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href") or "")
        if tag == "p":
            self.inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        if tag == "p":
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.paragraphs[-1] += data


def load(path):
    page = Loaded()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_pages_load_nothing_from_other_servers(site):
    pages = sorted(site.glob("*.html"))
    loaded = {page.name: load(page).addresses for page in pages}
    assert len(pages) == len(list(PICTURES.glob("*.md"))) + 1  # and 404.html
    foreign = [(n, a) for n, found in loaded.items() for a in found if re.match("(https?:)?//", a)]
    assert foreign == []
    styles = "".join(p.read_text(encoding="utf-8") for p in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", styles) == []


def test_lists_and_tables_are_not_run_together(site):
    """Markdown of the site wants an empty line before a list; other readers do not."""
    broken = [
        (page.name, text[:80])
        for page in site.glob("*.html")
        for text in load(page).paragraphs
        if re.search(r"^(- |\d+\. |\|)", text, re.M)
    ]
    assert broken == []


def test_commands_are_listed_with_their_options(site):
    from cafe_cli.cli.main import cli

    page = (site / "commands.html").read_text(encoding="utf-8")
    missing = [n for n, c in cli.commands.items() if f'id="{n}"' not in page and not c.hidden]
    assert missing == []
    assert "--dry-run" in page
