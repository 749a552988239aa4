"""The documentation: its Python examples run, and every file that it links to is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
RUN_NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient
NotebookClient(nbformat.read(sys.argv[1], 4), timeout=600).execute()
"""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)


def test_the_page_on_python_runs_from_top_to_bottom(tmp_path):
    script = "\n".join(code_blocks(ROOT / "docs" / "python.md"))
    assert script.count("import bci_decode as bd") == 1
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("data.target: is 'speed'; choose one of")


def test_the_page_on_live_decoding_runs_from_top_to_bottom(tmp_path):
    script = "\n".join([*code_blocks(ROOT / "docs" / "live.md"), "print(velocity)"])
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[ *-?\d.*\]", done.stdout.splitlines()[-1])


def test_the_example_of_the_readme_runs(tmp_path):
    (script,) = code_blocks(ROOT / "README.md")
    for long, short in {"minutes=7.0": "minutes=1.0", '=["': '=["trainer.epochs=1", "'}.items():
        assert script.count(long) == 1
        script = script.replace(long, short)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "snr_db" in done.stdout and len(list(tmp_path.rglob("metrics.json"))) == 1


def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TUTORIAL_EPOCHS": "1", "PYTHONPATH": places}
    command = [sys.executable, "-c", RUN_NOTEBOOK, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 3


def test_the_tutorial_shows_what_its_cells_print():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if "outputs" in cell]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {
        "stream",
        "execute_result",
        "display_data",
    }
    shown = json.dumps([[output.get("text"), output.get("data")] for output in outputs])
    assert str(ROOT.parent) not in shown and "/site-packages/" not in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []
