"""What a file is, which files are read, and that no entry of a folder goes without a word."""

import gzip
import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.config.schema import Data
from fairway.data.corpus import Corpus
from fairway.data.documents import read_documents
from fairway.data.selection import ending_of, matches, select, what_is
from fairway.data.shards import select_shards, write_shard
from fairway.errors import BadInput

PATTERN = Data().val_pattern

PLAIN = b"some words of text\n"
FOREIGN = {
    "UTF-16": PLAIN.decode().encode("utf-16"),
    "UTF-32": PLAIN.decode().encode("utf-32"),
    "xz": b"\xfd7zXZ\0 and more",
    "bzip2": b"BZh91AY&SY and more",
    "ZIP": b"PK\x03\x04 and more",
    "Parquet": b"PAR1 and more PAR1",
    "PDF": b"%PDF-1.7\n and more",
    "program": b"\x7fELF and more",
    "picture": b"\x89PNG\r\n\x1a\n and more",
    "tar": b"a" * 257 + b"ustar and more",
    "artifact": b"FWAY and more",
}


def lines(text):
    return b"".join(json.dumps({"text": line.decode()}).encode() + b"\n" for line in text)


class TestAFile:
    @pytest.mark.parametrize(
        ("name", "form", "packing"),
        [
            ("a.txt", "document", ""),
            ("a.Md", "document", ""),
            ("train.JSONL", "lines", ""),
            ("a.TXT.GZ", "document", "gzip"),
            ("a.JsonL.ZST", "lines", "zstd"),
            ("notes.jsonl.txt", "document", ""),
            ("notes.txt.jsonl", "lines", ""),
            ("a.jsonl.md.gz", "document", "gzip"),
            ("a.html", None, ""),
            ("a.gz", None, "gzip"),
            ("a.tar.gz", None, "gzip"),
            ("a.txt.bak", None, ""),
            ("txt", None, ""),
            ("txt.gz", None, "gzip"),
            ("a.txt.gz.zst", None, "zstd"),
        ],
    )
    def test_endings(self, name, form, packing):
        assert ending_of(name) == (form, packing)

    @pytest.mark.parametrize("name", ["letter", "a.html", "LETTER.TXT", "x.gz.txt", "no.bin"])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
    def test_a_named_file_is_text_whatever_its_name(self, tmp_path, name, pack, capfd):
        (tmp_path / name).write_bytes(pack(PLAIN))
        assert read_documents(tmp_path / name) == [PLAIN]
        assert ("by its content: it is unpacked" in capfd.readouterr().err) == (pack is not bytes)

    def test_a_named_file_of_json_lines(self, tmp_path):
        (tmp_path / "A.JSONL").write_bytes(gzip.compress(lines([b"one", b"two"])))
        assert read_documents(tmp_path / "A.JSONL") == [b"one", b"two"]

    @pytest.mark.parametrize("kind", FOREIGN)
    def test_what_is_no_text_is_named(self, tmp_path, kind):
        file, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
        file.write_bytes(FOREIGN[kind])
        packed.write_bytes(gzip.compress(FOREIGN[kind]))
        for path in (file, packed):
            with pytest.raises(BadInput, match=kind):
                what_is(path, named=True)

    def test_packed_twice(self, tmp_path):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(zstandard.compress(PLAIN)))
        with pytest.raises(BadInput, match="packed twice"):
            what_is(tmp_path / "a.txt.gz", named=True)

    def test_the_end_of_a_magic_number_is_text(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"BZhang wrote this")
        assert read_documents(tmp_path / "a.txt") == [b"BZhang wrote this"]

    def test_pipes_sockets_and_links(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.txt")
        (tmp_path / "gone").symlink_to(tmp_path / "nothing")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(tmp_path / "s.txt"))
            for name, message in (
                ("pipe.txt", "a pipe or device"),
                ("s.txt", "a pipe or device"),
                ("gone", "a broken link"),
                ("none", "no file or folder"),
                ("none/at/all", "no file or folder"),
            ):
                with pytest.raises(BadInput, match=message):
                    select(tmp_path / name)


class TestValidationNames:
    @pytest.mark.parametrize(
        "name",
        ["val.txt", "VAL.jsonl", "val_1.txt", "val-a.md", "Validation.txt", "validation-2.jsonl",
         "validation_0.txt.gz", "val/a.txt", "x/Val/b.md", "validation/deep/a.txt", "val"],
    )  # fmt: skip
    def test_validation(self, name):
        assert matches(name, PATTERN)

    @pytest.mark.parametrize(
        "name",
        ["values.txt", "valley.txt", "valid-urls.txt", "valid.txt", "value_1.txt", "validations.md",
         "retrieval.txt", "my_val.txt", "values/a.txt", "interval.txt", "train.txt", "a.val.txt"],
    )  # fmt: skip
    def test_documents(self, name):
        assert not matches(name, PATTERN)

    def test_a_pattern_of_ones_own(self, tmp_path, capfd):
        for name in ("a-test.txt", "b.txt", "values.txt"):
            (tmp_path / name).write_bytes(name.encode())
        corpus = Corpus(Data(source="files", path=str(tmp_path), val_pattern="*-TEST.*, nothing"))
        assert corpus.val == [b"a-test.txt"]
        assert "2 for training, 1 for validation (a-test.txt); 0 other" in corpus.lines()[0]

    def test_without_a_match_documents_are_split_and_it_is_said(self, tmp_path):
        for i in range(9):
            (tmp_path / f"values{i}.txt").write_bytes(b"x%d" % i)
        corpus = Corpus(Data(source="files", path=str(tmp_path)))
        assert len(corpus.val) + len(list(corpus.train())) == 9
        assert "no name matches data.val_pattern" in corpus.lines()[0]

    def test_a_file_that_is_named_itself_is_split(self, tmp_path):
        (tmp_path / "val.jsonl").write_bytes(lines([b"%d" % i for i in range(99)]))
        corpus = Corpus(Data(source="files", path=str(tmp_path / "val.jsonl")))
        assert len(corpus.val) + len(list(corpus.train())) == 99


_names = st.text("aB1 .-_é\n\udcff", min_size=1, max_size=5).filter(lambda s: s not in (".", ".."))
_endings = st.sampled_from(
    ["", ".txt", ".TXT", ".md", ".jsonl", ".JSONL", ".html", ".txt.gz", ".Txt.GZ", ".jsonl.zst",
     ".jsonl.txt", ".gz", ".tar.gz", ".bin", ".txt~"]
)  # fmt: skip
_contents = st.sampled_from(["text", "gzip", "zstd", "empty", *FOREIGN])
_entries = st.lists(
    st.tuples(
        st.sampled_from(["file", "file", "file", "hard link", "link", "broken", "folder link"]),
        st.lists(st.sampled_from(["d", "E", ".h", "val"]), max_size=2),
        _names, _endings, _contents,
    ),
    max_size=12,
)  # fmt: skip


def build(root, entries):
    """Make the entries. Returns each one's documents by its name below the root; None: no text."""
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "text.txt").write_bytes(b"behind a link")
    tree, expected, made = root / "tree", {}, []
    tree.mkdir()
    for number, (kind, folders, stem, ending, content) in enumerate(entries):
        path = tree.joinpath(*folders, stem + ending)
        name = path.relative_to(tree).as_posix()
        if path.exists() or path.is_symlink():
            continue
        form, claimed = ending_of(path.name)
        if kind in ("link", "hard link") and (
            not made or (form and ending_of(path.name) != ending_of(made[0].name))
        ):
            continue  # two names that promise different contents
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # a file has a folder's name
        hidden = next((p for p in path.relative_to(tree).parts if p.startswith(".")), None)
        if hidden:  # stands for all below it
            parts = path.relative_to(tree).parts
            name = "/".join(parts[: parts.index(hidden) + 1])
        if kind == "broken":
            path.symlink_to(tree / "nothing")
            expected[name] = None
        elif kind == "folder link":
            path.symlink_to(root / "elsewhere")
            expected[name] = None
        elif kind in ("link", "hard link"):
            (path.symlink_to if kind == "link" else path.hardlink_to)(made[0])
            expected[name] = "same"
        else:
            text = [b"words %d" % number, b"more"]
            inside = lines(text) if form == "lines" else b"words %d" % number
            plain = {"gzip": gzip.compress, "zstd": zstandard.compress}.get(content, bytes)(inside)
            if content == "text" and claimed:
                plain = {"gzip": gzip.compress, "zstd": zstandard.compress}[claimed](inside)
            if content in FOREIGN:
                plain = FOREIGN[content]
                if claimed:
                    plain = gzip.compress(plain)
            path.write_bytes(b"" if content == "empty" else plain)
            is_text = content in ("text", "gzip", "zstd") and form and not hidden
            expected[name] = (text if form == "lines" else [inside]) if is_text else None
            if is_text:
                made.append(path)
    return tree, expected


class TestFolders:
    @settings(max_examples=150)
    @given(_entries)
    def test_every_entry_is_read_as_what_it_is_or_skipped_with_a_reason(self, entries):
        with tempfile.TemporaryDirectory() as place:
            tree, expected = build(Path(place), entries)
            wanted = {name: texts for name, texts in expected.items() if isinstance(texts, list)}
            if not wanted:
                with pytest.raises(BadInput, match="holds no text files"):
                    select(tree)
                return
            found = select(tree)
            used = [found.name(file) for file in found.files]
            skipped = [entry.name.rstrip("/") for entry in found.skipped]
            assert sorted(used + skipped) == sorted(expected)
            assert all(entry.reason for entry in found.skipped)
            real = {os.stat(file.path).st_ino for file in found.files}
            assert len(real) == len(used) == len(wanted)
            documents = sorted(document for texts in wanted.values() for document in texts)
            assert sorted(read_documents(tree)) == documents
            told = "\n".join(found.summary())
            counts = [int(line.split()[1]) for line in told.split("\n") if line[:7] == "skipped"]
            assert sum(counts) == len(skipped)
            assert f": {len(used)}; {len(skipped)} other entries skipped" in told

    def test_reasons(self, tmp_path):
        tree = tmp_path / "tree"
        (tree / ".git").mkdir(parents=True)
        (tree / ".git" / "a.txt").write_bytes(PLAIN)
        (tmp_path / "far").mkdir()
        (tree / "far").symlink_to(tmp_path / "far")
        (tree / "gone.txt").symlink_to(tmp_path / "nothing")
        (tree / "a.txt").write_bytes(PLAIN)
        (tree / "same.txt").symlink_to("a.txt")
        (tree / "empty.md").write_bytes(b"")
        (tree / "page.html").write_bytes(PLAIN)
        (tree / "old.txt").write_bytes(FOREIGN["UTF-16"])
        os.mkfifo(tree / "pipe.txt")
        reasons = {entry.name: entry.reason for entry in select(tree).skipped}
        assert reasons.pop("old.txt").startswith("text in UTF-16: write it as UTF-8 first")
        assert reasons == {
            ".git/": "hidden",
            "far/": "link to a folder, not followed",
            "gone.txt": "broken link",
            "same.txt": "the same file as a.txt",
            "empty.md": "empty",
            "page.html": "unknown ending",
            "pipe.txt": "pipe or device",
        }

    def test_a_file_is_read_under_its_own_name_not_its_links(self, tmp_path):
        (tmp_path / "z.txt").write_bytes(PLAIN)
        (tmp_path / "val.txt").symlink_to("z.txt")
        (tmp_path / "y.txt").write_bytes(PLAIN)
        assert [file.path.name for file in select(tmp_path).files] == ["y.txt", "z.txt"]

    def test_what_cannot_be_read(self):
        nobody = 65534 if os.geteuid() == 0 else os.geteuid()  # root reads everything
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "d").mkdir()
            for name in ("a.txt", "b.txt", "d/c.txt"):
                (folder / name).write_bytes(PLAIN)
            os.chown(folder, nobody, -1)
            (folder / "b.txt").chmod(0)
            (folder / "d").chmod(0)
            before = os.geteuid()
            os.seteuid(nobody)
            try:
                found = select(folder)
            finally:
                os.seteuid(before)
                (folder / "d").chmod(stat.S_IRWXU)
        assert {entry.name: entry.reason for entry in found.skipped} == {
            "b.txt": "unreadable: Permission denied", "d/": "unreadable folder",
        }  # fmt: skip

    def test_a_folder_without_text_says_what_it_holds(self, tmp_path):
        (tmp_path / "a.html").write_bytes(PLAIN)
        with pytest.raises(BadInput, match=r"holds no text files.*unknown ending\): a.html"):
            select(tmp_path)

    def test_a_packed_name_with_another_content(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(PLAIN)
        (tmp_path / "b.txt.gz").write_bytes(PLAIN)
        with pytest.raises(BadInput, match=r"b\.txt\.gz is damaged or has a wrong name"):
            select(tmp_path)


class TestShards:
    def shard(self, path):
        write_shard(path, np.arange(4, dtype=np.uint16))
        return path

    def test_names_in_any_case_and_what_is_left_out(self, tmp_path):
        train, val = self.shard(tmp_path / "X_TRAIN_0.BIN"), self.shard(tmp_path / "x_val_0.bin")
        (tmp_path / "y_train_0.bin").symlink_to(train)
        (tmp_path / "notes.txt").write_bytes(PLAIN)
        (tmp_path / ".x_train_1.bin.part").write_bytes(PLAIN)
        (tmp_path / "sub").mkdir()
        found = select_shards(tmp_path)
        assert found[:2] == ([train], [val])
        assert {entry.name: entry.reason for entry in found[2]} == {
            "y_train_0.bin": "the same file as X_TRAIN_0.BIN",
            "notes.txt": "not named as a shard",
            ".x_train_1.bin.part": "hidden",
            "sub/": "not named as a shard",
        }

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["x_val_0.bin"], r"no shards \*_train_\*\.bin"),
            (["x_train_0.bin"], r"no shards \*_val_\*\.bin"),
            (["x_train_val_0.bin", "x_val_0.bin"], "for training and for validation"),
        ],
    )
    def test_sentences(self, tmp_path, names, message):
        for name in names:
            self.shard(tmp_path / name)
        with pytest.raises(BadInput, match=message):
            select_shards(tmp_path)

    def test_one_file_for_both_splits(self, tmp_path):
        (tmp_path / "x_val_0.bin").symlink_to(self.shard(tmp_path / "x_train_0.bin"))
        with pytest.raises(BadInput, match="are the same file"):
            select_shards(tmp_path)

    def test_folders_and_broken_links_are_no_shards(self, tmp_path):
        self.shard(tmp_path / "x_train_0.bin")
        (tmp_path / "x_val_0.bin").symlink_to(tmp_path / "nothing")
        with pytest.raises(BadInput, match="cannot read the shard"):
            select_shards(tmp_path)
        (tmp_path / "x_val_0.bin").unlink()
        (tmp_path / "x_val_0.bin").mkdir()
        with pytest.raises(BadInput, match="no regular file"):
            select_shards(tmp_path)
        with pytest.raises(BadInput, match="no folder"):
            select_shards(tmp_path / "x_train_0.bin")
