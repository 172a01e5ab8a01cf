"""Runs docs/tutorial.ipynb and stores what its cells printed and drew, without notices of libraries.

uv run --group docs python docs/make_tutorial.py
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")
CELL_SECONDS = 600  # a busy machine is no failure


def run_notebook(path: Path, folder: Path) -> NotebookNode:
    """The notebook after all of its cells ran in `folder`; CellExecutionError where one raises."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, coalesce_streams=True, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of its run
        if cell.cell_type == "code":
            cell.outputs = [kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def kept(output: NotebookNode) -> NotebookNode:
    """An output with one form of its picture, and no address of an object."""
    if "data" in output:
        forms = output.data
        output.data = {"image/png": forms["image/png"]} if "image/png" in forms else forms
        output.metadata = {}
    return output


if __name__ == "__main__":
    nbformat.write(run_notebook(NOTEBOOK, NOTEBOOK.parent), NOTEBOOK)
