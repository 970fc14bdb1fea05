"""Folders that are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from ark_hf.files import printable, read_json, replace_folder, replacing


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("old")
    return tmp_path / "model"


def write_new(new):
    (new / "file").write_text("new")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Müller/über_\u0308 100 %.png", "Müller/über_\u0308 100 %.png"),
        (os.fsdecode(b"m\xfcller\xff.png"), "m\\xfcller\\xff.png"),
        ("\ud800.png", "\\ud800.png"),
        (Path("a/b.png"), "a/b.png"),
        ("\x1b[2Jone\ntwo\t\x9b31m.png", "\\x1b[2Jone\\ntwo\\t\\x9b31m.png"),
        ("scan\u202egnp.exe", "scan\\u202egnp.exe"),
        (None, "None"),
    ],
)
def test_names_become_text_that_can_be_written(name, text):
    assert printable(name) == text
    printable(name).encode()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", b"\xff", ""])
def test_what_is_no_json_is_named_and_not_quoted(tmp_path, text):
    path = tmp_path / "notes.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="notes.json is not JSON") as caught:
        read_json(path)
    assert type(caught.value) is ValueError and len(str(caught.value)) < len(str(path)) + 60


def test_a_pipe_is_no_json_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "notes.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "notes.json")


def test_a_folder_is_replaced_and_nothing_else_is_left(folder):
    replace_folder(folder, write_new)
    assert (folder / "file").read_text() == "new" and list(folder.parent.iterdir()) == [folder]


def test_what_cannot_be_written_leaves_the_old_one(folder):
    def fail(new):
        (new / "file").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        replace_folder(folder, fail)
    assert (folder / "file").read_text() == "old" and list(folder.parent.iterdir()) == [folder]


def test_a_rename_that_fails_brings_the_old_one_back(folder, monkeypatch):
    rename = Path.rename

    def rename_or_fail(self, target):
        if self.name.endswith(".new"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_or_fail)
    with pytest.raises(OSError, match="no"):
        replace_folder(folder, write_new)
    assert (folder / "file").read_text() == "old"


def test_a_kill_between_the_renames_loses_nothing(folder):
    folder.rename(folder.with_name(".model.old"))

    def look(new):
        assert (folder / "file").read_text() == "old"
        write_new(new)

    replace_folder(folder, look)
    assert (folder / "file").read_text() == "new"


def test_the_current_folder_can_be_replaced(folder, monkeypatch):
    monkeypatch.chdir(folder)
    replace_folder(Path("."), write_new)
    assert (folder / "file").read_text() == "new"


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "table.csv"
    with replacing(path) as new:
        new.write_text("first")
        assert not path.exists() and new.name.startswith(".")
    with pytest.raises(OSError, match="full"), replacing(path) as new:
        new.write_text("half")
        raise OSError("the disk is full")
    with replacing(path) as new:
        new.write_text("nothing of use")
        new.unlink()
    with replacing(path):
        pass
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as new, replacing(path) as other:
        assert new != other
        new.write_text("outer")
        other.write_text("inner")
    assert path.read_text() == "outer" and list(tmp_path.iterdir()) == [path]


def test_what_is_written_can_be_read_by_whom_the_umask_lets_read(tmp_path):
    def write(folder):
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text("1")
        (folder / "part" / "weights").chmod(0o600)  # as safetensors leaves it

    for umask, rights in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            replace_folder(tmp_path / oct(umask), write)
        finally:
            os.umask(before)
        assert (tmp_path / oct(umask) / "part" / "weights").stat().st_mode & 0o777 == rights
