"""Files that are complete or not there, and folders in which only own files are replaced."""

from __future__ import annotations

import json
import os

import pytest

from zfit_fnf.common.files import complete, own_files

PLACES = ("events", "plots", "results.txt")


def run(folder, *names, content="made", overwrite=True):
    with own_files(folder, PLACES, overwrite=overwrite):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestComplete:
    def test_an_interrupted_file_is_not_there(self, tmp_path):
        def write():
            with complete(tmp_path / "results.json") as draft:
                draft.write_text("{")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()
        assert list(tmp_path.iterdir()) == []


class TestOwnFiles:
    def test_replaces_what_it_has_written_and_nothing_else(self, tmp_path):
        run(tmp_path / "out", "events/a", "plots/b", "results.txt", overwrite=False)
        (tmp_path / "out" / "thesis.tex").write_text("mine")
        (tmp_path / "out" / "chapters").mkdir()
        (tmp_path / "out" / "chapters" / "1.tex").write_text("mine")
        run(tmp_path / "out", "events/c")
        found = files(tmp_path / "out")
        assert json.loads(found.pop("files.json")).keys() == {"events/c"}
        assert found == {"events/c": "made", "thesis.tex": "mine", "chapters/1.tex": "mine"}

    def test_needs_permission(self, tmp_path):
        run(tmp_path, "results.txt")
        with pytest.raises(FileExistsError, match="is not empty"):
            run(tmp_path, "results.txt", overwrite=False)

    def changed(self, folder):
        (folder / "plots" / "b").write_text("changed")

    def added(self, folder):
        (folder / "plots" / "mine").write_text("x")

    def replaced_by_a_link(self, folder):
        (folder / "other").write_text("made")
        (folder / "plots" / "b").unlink()
        (folder / "plots" / "b").symlink_to(folder / "other")

    def linked_folder(self, folder):
        (folder / "plots").rename(folder / "elsewhere")
        (folder / "plots").symlink_to(folder / "elsewhere")

    def without_list(self, folder):
        (folder / "files.json").unlink()

    def list_of_something_else(self, folder):
        (folder / "files.json").write_text('["plots/b"]')

    def pipe(self, folder):
        os.mkfifo(folder / "plots" / "pipe")

    @pytest.mark.parametrize(
        "change",
        ["changed", "added", "replaced_by_a_link", "linked_folder", "without_list", "list_of_something_else", "pipe"],
    )
    def test_refuses_what_is_not_as_it_was_left(self, tmp_path, change):
        run(tmp_path, "events/a", "plots/b", "results.txt")
        getattr(self, change)(tmp_path)
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(FileExistsError, match="is not as an earlier run has left it"):
            run(tmp_path, "events/a")
        assert sorted(map(str, tmp_path.rglob("*"))) == before

    def test_a_list_names_no_files_elsewhere(self, tmp_path):
        """What is deleted is at the places, whatever a list says."""
        run(tmp_path / "out", "results.txt")
        (tmp_path / "own").write_text("mine")
        listed = json.loads((tmp_path / "out" / "files.json").read_text())
        (tmp_path / "out" / "files.json").write_text(json.dumps({**listed, "../own": listed["results.txt"]}))
        run(tmp_path / "out", "results.txt")
        assert (tmp_path / "own").read_text() == "mine"

    def test_an_interrupted_run_may_be_repeated(self, tmp_path):
        def interrupted():
            with own_files(tmp_path, PLACES, overwrite=False):
                (tmp_path / "results.txt").write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        run(tmp_path, "results.txt")
        assert files(tmp_path)["results.txt"] == "made"
