"""The examples of the documents run, and print what the documents show."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name, language):
    text = (ROOT / name).read_text(encoding="utf-8")
    return [body for kind, body in FENCE.findall(text) if kind == language]


# Pages whose cells are run.
GUIDES = (
    "batching",
    "quickstart",
    "data_dependent",
    "tropical",
    "tropical_applications",
    "lipschitz",
    "lipschitz_layers",
    "local_bounds",
    "prototypes",
    "tropical_boundary",
    "tutorials/composing_smoothing",
    "tutorials/drawing_a_boundary",
    "tutorials/watching_the_batch_size",
)


@pytest.mark.parametrize("page", GUIDES)
def test_guide_runs_cell_by_cell(page):
    cells = blocks(f"docs/{page}.md", "python")
    assert len(cells) >= 5
    test = doctest.DocTestParser().get_doctest("\n".join(cells), {}, page, None, 0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = doctest.DocTestRunner(verbose=False).run(test, out=printed.write)
    assert outcome.attempted > 15
    assert outcome.failed == 0, printed.getvalue()


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", text)]


def test_readme_example_prints_what_the_readme_shows(capsys):
    (source,) = blocks("README.md", "python")
    assert len(source.splitlines()) <= 18
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    (shown,) = [block for block in blocks("README.md", "text") if block.startswith("[")]
    # Another version or machine trains to slightly other weights.
    assert numbers(printed) == pytest.approx(numbers(shown), abs=0.06)
    assert len(numbers(printed)) == 12


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/theory.md"])
def test_make_targets_that_a_document_names_exist(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named
    missing = [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    assert missing == []


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        if "_build" in page.parts:
            continue
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
        for target in re.findall(r"\{doc\}`([^`]+)`", text):
            if not (page.parent / f"{target}.md").exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
