"""The documents as a site: whole, with links that lead somewhere, and asking no other host for anything."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import ark_hf
from tests.conftest import REPOSITORY
from tests.serving.test_browser import DESK, PHONE, browser  # noqa: F401

DOCS = REPOSITORY / "docs"
WRITTEN = [
    *sorted(DOCS.rglob("*.md")),
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        assert not anchor or place.suffix != ".md" or anchor in anchors(place), target


def test_every_public_name_stands_on_one_page_of_the_reference():
    told = re.findall(
        r"^::: ark_hf\.(\w+)$", "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md")), re.MULTILINE
    )
    assert sorted(told) == sorted(set(ark_hf.__all__) - {"__version__"})
    index = (DOCS / "reference" / "index.md").read_text()
    assert sorted(re.findall(r"`(\w+)`", index.partition("|---")[2])) == sorted(told)


def test_the_paper_index_names_what_is_there():
    rows = [line.split(" | ") for line in (DOCS / "papers.md").read_text().splitlines() if line.startswith("| ")]
    for _, where, held, *_ in (row for row in rows if row[1] != "where"):
        files = {PACKAGE / path for path in re.findall(r"`([\w/]+\.py)`", where) if not path.startswith("tests/")}
        source = "".join(path.read_text() for path in files)
        for name in re.findall(r"`(\w+)`", where):
            assert name in ark_hf.__all__ or re.search(rf"\b{name}\b", source + FIELDS), name
        for path in re.findall(r"`([\w/]+\.py)`", held):
            assert (REPOSITORY / "tests" / path).is_file(), path


PACKAGE = REPOSITORY / "src" / "ark_hf"
FIELDS = "".join(path.read_text() for path in (PACKAGE / "training").rglob("*.py"))  # settings in parentheses


def test_links_out_of_the_documents_become_addresses_or_text():
    spec = importlib.util.spec_from_file_location("links", REPOSITORY / "tools" / "links.py")
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    text = "[a](docs/x.md#y) ![b](p.png) [`c`](#d) [e](https://f) \n```\n[g](h.md)\n```\n"
    assert links.to_repository(text, "README.md", "https://host/me/it") == (
        "[a](https://host/me/it/blob/main/docs/x.md#y) ![b](https://host/me/it/raw/main/p.png) [`c`](#d) "
        "[e](https://f) \n```\n[g](h.md)\n```\n"
    )
    assert links.to_repository(text, "README.md", None) == "a b [`c`](#d) [e](https://f) \n```\n[g](h.md)\n```\n"
    page = links.to_repository("[a](b.md) [c](../d/e.py)", "docs/f.md", "https://host", stays="docs")
    assert page == "[a](b.md) [c](https://host/blob/main/d/e.py)"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason='the extra "docs" is not installed')
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    silent = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=REPOSITORY, env=silent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.slow_ci
def test_the_site_is_strict_and_small(site):
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert pages >= {f"{page.relative_to(DOCS).with_suffix('.html')}" for page in DOCS.rglob("*.md")}
    assert "<code>padchest</code>" in (site / "data.html").read_text()  # of the table that is made of the catalog
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 10_000_000
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", html), path
        assert "[<code>" not in html, path  # a name in a docstring that did not become a link


@pytest.mark.slow_ci
@pytest.mark.parametrize("settings", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_fit_the_screen_and_ask_no_other_host(site, browser: Browser, settings):  # noqa: F811
    context = browser.new_context(**settings)
    tab, asked = context.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    for name in ("index", "data", "reference/data", "papers"):
        tab.goto((site / f"{name}.html").as_uri())
        tab.wait_for_load_state("networkidle")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    context.close()
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
