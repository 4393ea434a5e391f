"""The command line of compress and decompress, as people know it from zstd and xz."""

import pytest

from processes import command

TEXT = b"The quick brown fox jumps over the lazy dog.\r\n" * 30


@pytest.fixture
def letter(tmp_path):
    file = tmp_path / "letter.txt"
    file.write_bytes(TEXT)
    return file


def test_pipes_and_a_default_artifact(artifact_file):
    setting = {"FAIRWAY_MODEL": str(artifact_file)}
    packed = command("compress", "-", "--json", data=TEXT, **setting)  # no JSON after the bytes
    assert packed.wait() == 0, packed.stderr
    assert len(packed.stdout) < len(TEXT)
    restored = command("decompress", "-m", artifact_file, "-", data=packed.stdout)
    assert restored.wait() == 0, restored.stderr
    assert restored.stdout == TEXT
    damaged = command("decompress", "-", data=packed.stdout[:-8], **setting)
    assert damaged.wait() == 2
    assert "truncated" in damaged.stderr


def test_rm_removes_what_was_written_to_a_file_and_d_restores_it(
    fairway, artifact_file, letter, tmp_path
):
    packed = tmp_path / "letter.txt.fwz"
    code, _, said = fairway("compress", "-m", artifact_file, "--rm", letter)
    size = packed.stat().st_size
    assert code == 0
    assert f"{len(TEXT):,} bytes → {size} ({size / len(TEXT):.1%})" in said
    assert not letter.exists()
    assert fairway("compress", "-m", artifact_file, "-t", "--rm", packed)[0] == 0
    assert not letter.exists()  # a test writes nothing
    assert fairway("compress", "-m", artifact_file, "-dk", packed)[0] == 0
    assert (letter.read_bytes(), packed.exists()) == (TEXT, True)
    assert fairway("decompress", "-m", artifact_file, "-f", "--rm", packed)[0] == 0
    assert (letter.read_bytes(), packed.exists()) == (TEXT, False)


def test_several_files(fairway, artifact_file, letter, tmp_path):
    other = tmp_path / "empty"
    other.write_bytes(b"")
    assert fairway("compress", "-m", artifact_file, letter, other)[0] == 0
    packed = [tmp_path / "letter.txt.fwz", tmp_path / "empty.fwz"]
    assert packed[1].stat().st_size <= 24
    letter.unlink()
    other.unlink()
    assert fairway("decompress", "-m", artifact_file, *packed)[0] == 0
    assert (letter.read_bytes(), other.read_bytes()) == (TEXT, b"")


def test_which_file_is_the_artifact(fairway, artifact_file, letter, tmp_path, monkeypatch):
    """-m or FAIRWAY_MODEL name it; with -m every file is compressed, artifacts too."""
    other = tmp_path / "other.fairway"
    other.write_bytes(artifact_file.read_bytes())
    named = str(artifact_file)
    packed = [tmp_path / "other.fairway.fwz", tmp_path / "letter.txt.fwz"]
    for words, default, written in (
        (["-m", artifact_file, other, letter], "", packed),
        (["-m", artifact_file, other], named, packed[:1]),
        ([letter], named, packed[1:]),
        ([other, letter], named, []),
        ([letter, other], named, []),
        ([other, letter], "", []),
    ):
        monkeypatch.setenv("FAIRWAY_MODEL", default)
        code, _, err = fairway("compress", *words)
        assert sorted(tmp_path.glob("*.fwz")) == sorted(written)
        assert code == (0 if written else 2), err
        if not written:
            assert "other.fairway is an artifact: name the model with -m MODEL" in err
        for file in written:
            file.unlink()


def test_a_file_named_twice_is_refused(fairway, artifact_file, letter, tmp_path):
    (tmp_path / "link").symlink_to(letter)
    for again in (letter, tmp_path / "link", tmp_path / "x" / ".." / "letter.txt"):
        code, _, err = fairway("compress", "-m", artifact_file, letter, again)
        assert code == 2
        assert "is named twice" in err


def test_nothing_is_overwritten_without_force(fairway, artifact_file, letter, tmp_path):
    there = tmp_path / "letter.txt.fwz"
    there.write_text("mine")
    code, _, err = fairway("compress", "-m", artifact_file, letter)
    assert code == 2
    assert "-f overwrites it" in err
    assert there.read_text() == "mine"
    assert fairway("compress", "-m", artifact_file, letter, "-f")[0] == 0
    assert fairway("decompress", "-m", artifact_file, there)[0] == 2
    assert letter.read_bytes() == TEXT


def test_testing_writes_nothing(fairway, artifact_file, letter, tmp_path):
    fairway("compress", "-m", artifact_file, letter)
    packed = tmp_path / "letter.txt.fwz"
    letter.unlink()
    assert fairway("decompress", "-t", "-m", artifact_file, packed)[0] == 0
    data = bytearray(packed.read_bytes())
    data[40] ^= 1
    packed.write_bytes(data)
    code, _, err = fairway("decompress", "-t", "-m", artifact_file, packed)
    assert code == 2
    assert "chunk 1 of the compressed file is damaged" in err
    assert sorted(tmp_path.glob("letter*")) == [packed]


def test_a_damaged_file_leaves_nothing_half_written(fairway, artifact_file, letter, tmp_path):
    fairway("compress", "-m", artifact_file, letter)
    packed = tmp_path / "letter.txt.fwz"
    packed.write_bytes(packed.read_bytes()[:-3])
    letter.unlink()
    assert fairway("decompress", "-m", artifact_file, packed)[0] == 2
    assert [file.name for file in tmp_path.iterdir() if "letter" in file.name] == [packed.name]


def test_what_is_refused(fairway, artifact_file, letter, tmp_path, monkeypatch):
    monkeypatch.delenv("FAIRWAY_MODEL", raising=False)

    def refused(*arguments):
        code, _, err = fairway(*arguments)
        assert code == 2
        return err

    assert "no model: name an artifact or a run directory with -m" in refused("compress", letter)
    assert "there is no such file" in refused("compress", "-m", artifact_file, tmp_path / "nope")
    assert "-o FILE" in refused("decompress", "-m", artifact_file, letter)
    assert "is one file" in refused("compress", "-m", artifact_file, letter, "x", "-o", "y")
    assert "'decimal' is not one of 'exact', 'float'" in refused(
        "compress", "-m", artifact_file, letter, "--arithmetic", "decimal"
    )
