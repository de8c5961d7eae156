"""The documentation builds into a site without a warning, and a link that leads nowhere stops the build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs pip install '.[docs]'")
pytest.importorskip("myst_parser", reason="needs pip install '.[docs]'")
pytest.importorskip("furo", reason="needs pip install '.[docs]'")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]  # fmt: skip
    return subprocess.run(
        [*command, source, site], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    built = build(DOCS, place)
    assert built.returncode == 0, built.stderr
    return place


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_every_page_is_there_and_in_the_search(site: Path, page: str) -> None:
    assert (site / f"{page}.html").is_file()
    assert f'"{page}"' in (site / "searchindex.js").read_text("utf-8")


def test_programs_find_every_page_as_plain_text(site: Path) -> None:
    listed = (site / "llms.txt").read_text("utf-8")
    assert listed.startswith("# ptune\n\n> Fine-tune a model on hardware you own")
    for page in DOCS.glob("*.md"):
        assert f"/_sources/{page.stem}.md.txt)" in listed
        assert (site / "_sources" / f"{page.stem}.md.txt").is_file()
    assert "ptune serve" in (site / "llms-full.txt").read_text("utf-8")


def test_the_front_page_is_the_readme(site: Path) -> None:
    front = (site / "index.html").read_text("utf-8")
    assert "Fine-tune a model on hardware you own" in front
    assert 'href="training.html' in front
    assert 'href="changelog.html"' in front
    assert 'src="_images/chain.svg"' in front


@pytest.mark.parametrize(
    "link", ["nowhere.md", "other.md#nowhere", "images/nowhere.png"], ids=["page", "heading", "file"]
)
def test_a_broken_link_stops_the_build(tmp_path: Path, link: str) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("# A page\n", "utf-8")
    (source / "index.md").write_text("```{toctree}\nother\n```\n", "utf-8")
    (source / "other.md").write_text("# Other\n\n[here](#other)\n", "utf-8")
    assert build(source, tmp_path / "whole").returncode == 0
    (source / "other.md").write_text(f"# Other\n\n[there]({link})\n", "utf-8")
    built = build(source, tmp_path / "broken")
    assert built.returncode != 0
    assert "nowhere" in built.stderr
