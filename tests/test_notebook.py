"""docs/notebook.ipynb runs from its first cell to its last."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that run notebooks
def test_every_cell_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    shown = [len(cell.outputs) for cell in book.cells if cell.cell_type == "code"]
    client = NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises what a cell raises; cells assert what they say
    assert (tmp_path / "runs/tiny/model.fairway").exists()
    assert [len(cell.outputs) for cell in book.cells if cell.cell_type == "code"] == shown
    assert NOTEBOOK.stat().st_size < 30_000
