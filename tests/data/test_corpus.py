"""Sources, splits and duplicates; a sentence for every bad file."""

import gzip
import json
import random

import pytest
import zstandard

from fairway.config.schema import Data
from fairway.data.corpus import Corpus
from fairway.data.documents import read_documents
from fairway.errors import BadInput

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrstx"]


def prose(seed, words=200):
    """English-like words of a random generator."""
    return " ".join(random.Random(seed).choices(WORDS, k=words)).encode()


def files(path, **settings):
    return Corpus(Data(source="files", path=str(path), **settings))


def json_lines(documents):
    return b"".join(json.dumps({"text": d.decode()}).encode() + b"\n" for d in documents)


class TestFiles:
    def test_every_kind_of_file_in_order(self, tmp_path):
        folder = tmp_path / "sub"
        folder.mkdir()
        (tmp_path / "b.md").write_bytes(b"two\r\n")
        (tmp_path / "a.txt").write_bytes(b"\xff one")
        (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"three"))
        (tmp_path / "d.jsonl").write_bytes(json_lines([b"four", b"", "fünf\n".encode()]) + b"\n")
        packed = zstandard.compress(json_lines([b"six"])) + zstandard.compress(json_lines([b"7"]))
        (folder / "e.jsonl.zst").write_bytes(packed)
        (folder / "ignored.html").write_bytes(b"<p>")
        assert read_documents(tmp_path) == [
            b"\xff one",
            b"two\r\n",
            b"three",
            b"four",
            "fünf\n".encode(),
            b"six",
            b"7",
        ]

    def test_another_text_field(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"body": "yes \\ud800"}', "utf-8")
        assert read_documents(tmp_path / "a.jsonl", "body") == [b"yes \xed\xa0\x80"]

    def test_lines_longer_than_a_chunk(self, tmp_path):
        documents = [b"x" * (3 << 20), b"y", b"z" * (1 << 20)]
        (tmp_path / "a.jsonl").write_bytes(json_lines(documents))
        assert read_documents(tmp_path / "a.jsonl") == documents

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl:2 is not valid JSON"),
            ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl:1 is not valid JSON"),
            ("a.jsonl", b'{"body": "x"}\n', r"a\.jsonl:1 has no text in the field 'text'"),
            ("a.jsonl", b"[1]\n", r"a\.jsonl:1 has no text"),
            ("a.txt.gz", b"no gzip", r"a\.txt\.gz is damaged"),
            ("a.txt.gz", gzip.compress(b"cut" * 99, mtime=0)[:-9], r"a\.txt\.gz is damaged"),
            ("a.txt.zst", b"no zstd", r"a\.txt\.zst is damaged"),
            ("a.txt.zst", zstandard.compress(prose(1))[:-9], "cut short"),
            ("a.txt", b"", "holds no text"),
            ("a.pdf", b"%PDF-1.7", r"a\.pdf is a PDF file"),
            ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1 is not valid JSON"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message):
            read_documents(tmp_path / name)


class TestSplit:
    def test_by_file_name(self, tmp_path):
        (tmp_path / "val.jsonl").write_bytes(json_lines([prose(1), prose(2), prose(1)]))
        (tmp_path / "train.jsonl").write_bytes(
            json_lines([prose(3), prose(2), prose(3), prose(1) + b" end", prose(4)])
        )
        corpus = files(tmp_path)
        assert corpus.val == [prose(1), prose(2)]
        assert list(corpus.train()) == [prose(3), prose(4)]
        assert corpus.dropped == 2
        assert corpus.share == 1.0

    def test_by_hash_of_the_document(self, tmp_path):
        documents = [prose(i) for i in range(300)]
        (tmp_path / "a.jsonl").write_bytes(json_lines(documents))
        corpus = files(tmp_path, val_fraction=0.1)
        val, train = corpus.val, list(corpus.train())
        assert sorted(val + train) == sorted(documents)
        assert 15 <= len(val) <= 45
        random.Random(0).shuffle(documents)
        (tmp_path / "a.jsonl").write_bytes(json_lines(documents))
        assert set(files(tmp_path, val_fraction=0.1).val) == set(val)

    def test_a_few_documents_still_split(self, tmp_path):
        for i in range(3):
            (tmp_path / f"{i}.txt").write_bytes(prose(i))
        corpus = files(tmp_path, val_fraction=1e-9)
        assert len(corpus.val) == 1
        assert len(list(corpus.train())) == 2

    def test_train_bytes_limits_what_is_read(self, tmp_path):
        (tmp_path / "val.txt").write_bytes(prose(0))
        (tmp_path / "train.jsonl").write_bytes(json_lines([prose(i) for i in range(1, 9)]))
        corpus = files(tmp_path, train_bytes=len(prose(1)) + 1)
        assert list(corpus.train()) == [prose(1), prose(2)]
        assert corpus.share == 1.0

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({"val.txt": b"x"}, "nothing is left to train on"),
            ({"a.txt": b"x"}, "a single document"),
            ({"a.txt": b"x", "val.txt": b""}, "a single document"),
            ({"a.jsonl": b"\n", "b.jsonl": b"\n"}, "no validation documents"),
            ({"val.jsonl": b"\n", "b.txt": b"x"}, "val.jsonl match data.val_pattern"),
        ],
    )
    def test_splits_that_cannot_be(self, tmp_path, contents, message):
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message):
            _ = files(tmp_path).val

    def test_what_is_left_out_is_counted(self, tmp_path):
        (tmp_path / "val.txt").write_bytes(prose(0))
        lines = json_lines([prose(1), b"", prose(1), prose(0), prose(2)]) + b"\n \n"
        (tmp_path / "train.jsonl").write_bytes(lines)
        corpus = files(tmp_path)
        assert list(corpus.train()) == [prose(1), prose(2)]
        assert corpus.left_out.sentence() == "2 blank lines, 1 empty documents, 1 exact copies"
        assert corpus.dropped == 1

    def test_fingerprint_follows_contents_and_names(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"one")
        one = files(tmp_path).fingerprint()
        assert files(tmp_path).fingerprint() == one
        (tmp_path / "a.txt").write_bytes(b"two")
        two = files(tmp_path).fingerprint()
        (tmp_path / "a.txt").rename(tmp_path / "b.txt")
        assert len({one, two, files(tmp_path).fingerprint()}) == 3


class TestStandardLibrary:
    def test_documentation_is_large_enough(self):
        corpus = Corpus(Data(source="stdlib"))
        train = list(corpus.train())
        assert sum(map(len, corpus.val + train)) >= 2_500_000
        assert len(set(corpus.val + train)) == len(corpus.val) + len(train)
        assert corpus.fingerprint() == Corpus(Data(source="stdlib")).fingerprint()
        assert any(b"class OrderedDict" in document for document in corpus.val + train)

    def test_code(self):
        corpus = Corpus(Data(source="stdlib-code", train_bytes=1_000_000))
        train = list(corpus.train())
        assert 1_000_000 <= sum(map(len, train)) < 2_000_000
        assert any(b"\ndef " in document for document in train)
