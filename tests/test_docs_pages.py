"""Pages of the documentation name files and pages that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/adding.md", "docs/data_flow.md", "docs/kernels.md", "docs/protocols.md", "docs/results.md")
# What docs/adding.md adds.
MADE_UP = {"librispeech.py", "offset.py", "short_moonshine.py", "repeat.py", "margin.py", "lines.py", "lines.txt"}


def _named_files(text: str) -> set[str]:
    """Paths of modules and tests that a page names in backticks; those without a folder are left out."""
    return set(re.findall(r"`((?:[\w-]+/)+[\w-]+\.py)[`:]", text))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for name in _named_files((ROOT / page).read_text(encoding="utf-8")):
        there = (ROOT / name).exists() or (ROOT / "speechmtp" / name).exists()
        assert there or Path(name).name in MADE_UP, name


def test_the_readme_is_short_and_has_one_table_of_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    results = text.partition("## Results")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\|[-| :]+\|$", results, re.M)) == 1


def test_names_are_found_on_a_page() -> None:
    assert _named_files("`a/b.py` and `c/d-e/f.py`: g, `h.py`, a/i.py, `j/k.md`") == {"a/b.py", "c/d-e/f.py"}


def _sections(page: str) -> dict[str, str]:
    """Heading -> text of the second level of a page."""
    parts = re.split(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


ADDING = _sections("docs/adding.md")


@pytest.mark.parametrize("heading", ADDING)
def test_code_of_the_page_on_adding_runs(heading: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", ADDING[heading], re.S)
    assert len(blocks) == 1
    exec(compile(blocks[0], f"docs/adding.md: {heading}", "exec"), {"__name__": "added"})


@pytest.mark.parametrize("heading", ADDING)
def test_the_page_on_adding_shows_what_one_costs(heading: str) -> None:
    (stat,) = re.findall(r"```\n((?: .+\|.+\n)+)```", ADDING[heading])
    files = [line.split("|")[0].strip() for line in stat.splitlines()]
    for name in files:
        assert (ROOT / name).exists() or Path(name).name in MADE_UP, name
    assert sum(name.startswith("tests/") for name in files) == 1
    anchors = re.findall(r"\]\(#([\w-]+)\)", (ROOT / "docs/adding.md").read_text(encoding="utf-8"))
    assert heading.lower().replace(" ", "-") in anchors
