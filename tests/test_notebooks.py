"""Every notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").rglob("*.ipynb"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells with code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def leftovers(notebook: dict[str, Any]) -> list[str]:
    """What a run has left behind in the file: outputs, execution counts, widgets."""
    found = [f"cell {n} has {what}" for n, cell in enumerate(code_cells(notebook)) for what in ("outputs", "execution_count")
             if cell[what] not in ([], None)]
    return found + [f"metadata has {key}" for key in sorted(set(notebook["metadata"]) - {"kernelspec", "language_info"})]


def run_cells(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """Runs the cells in one namespace, which it returns; an error names the cell by the file name in its traceback."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for n, cell in enumerate(code_cells(notebook)):
        exec(compile("".join(cell["source"]), f"{name}[cell {n}]", "exec"), namespace)
    return namespace


@pytest.fixture
def quiet_place(tmp_path, monkeypatch):
    """An empty working folder, figures that open no window, a short training run, and the thread count restored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOY_STEPS", "6")
    threads, backend = torch.get_num_threads(), matplotlib.get_backend()
    matplotlib.use("Agg")
    yield tmp_path
    torch.set_num_threads(threads)
    from matplotlib import pyplot

    pyplot.close("all")
    matplotlib.use(backend)


def test_there_is_a_notebook():
    assert "first_look.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    assert leftovers(json.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, quiet_place):
    run_cells(json.loads(path.read_text(encoding="utf-8")), path.name)
    assert list(quiet_place.iterdir()) == []  # a first look leaves no files behind


def test_the_checks_can_fail():
    cell = {"cell_type": "code", "source": ["x = 1\n", "x / 0"], "outputs": [{}], "execution_count": 3}
    used = {"cells": [cell], "metadata": {"widgets": {}}}
    assert leftovers(used) == ["cell 0 has outputs", "cell 0 has execution_count", "metadata has widgets"]
    with pytest.raises(ZeroDivisionError):
        run_cells(used, "broken.ipynb")
