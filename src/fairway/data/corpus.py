"""Split documents into training and validation text, without duplicates.

A document is bytes. Sources: `stdlib` and `stdlib-code` (what every Python ships), `files` (what
selection.py selects). The order is fixed: files by name, documents as they come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from fairway.config.schema import Data
from fairway.data import stdlib
from fairway.data.documents import LeftOut, Source, read_files
from fairway.data.listing import listed, show
from fairway.data.near_duplicates import NearDuplicates, digest
from fairway.data.selection import Selection, matches, select
from fairway.errors import BadInput
from fairway.io.atomic import sha256_file

_KEPT = 64  # one of this number of fingerprints of the validation text is kept


class Shipped(NamedTuple):
    """A corpus without a path; its name is a value of data.source."""

    documents: Callable[[], list[bytes]]
    listing: Callable[[], list[tuple[str, ...]]]  # another listing: other documents


SHIPPED = {
    "stdlib": Shipped(stdlib.docstrings, stdlib.listing),
    "stdlib-code": Shipped(stdlib.sources, stdlib.listing),
}


class Corpus:
    """The documents of any source but `shards`, split, and no validation text in training text.

    Files that match data.val_pattern, by their own name or a folder's, are the validation split. If
    none matches, documents are split by hash: those in the lowest data.val_fraction of the range
    are for validation. A file that data.path names itself is always split by hash.
    """

    def __init__(self, data: Data) -> None:
        """Select the files. Raises BadInput if the source is missing or leaves no training text."""
        self._data = data
        self.selection = select(data.path) if data.source == "files" else Selection(Path(), [], [])
        self._files = self.selection.files
        self.val_files = [
            file
            for file in self._files
            if file.path != self.selection.root
            and matches(self.selection.name(file), data.val_pattern)
        ]
        self._val_below = int(data.val_fraction * 2**64)
        self.dropped = 0  # documents that the last `train()` left out as too close to val
        self.left_out = LeftOut()  # what the last `train()` left out while it read
        self.share = 0.0  # the part of the source that the last `train()` has read
        if self._files and len(self.val_files) == len(self._files):
            raise BadInput(
                f"every text file of {show(data.path)} matches data.val_pattern "
                f"'{data.val_pattern}': nothing is left to train on; change the pattern"
            )

    def lines(self) -> list[str]:
        """Return lines that say which files went to which split, and why others were skipped."""
        if self._data.source != "files":
            return []
        total, val = len(self._files), len(self.val_files)
        first = f"text files in {show(self.selection.root)}: {total:,}"
        if val:
            names = listed([self.selection.name(f) for f in self.val_files])
            first += f"; {total - val:,} for training, {val:,} for validation ({names})"
        else:
            first += "; split by a hash of each document"
            if self._files[0].path != self.selection.root:
                first += f", because no name matches data.val_pattern '{self._data.val_pattern}'"
        return [f"{first}; {self.selection.others}", *self.selection.lines()]

    def fingerprint(self) -> str:
        """Return a SHA-256 of what the source holds: contents of files, or names of modules."""
        listing: list[tuple[str, ...]]
        if self._data.source == "files":
            listing = [
                (self.selection.name(f), f.form, f.packing, sha256_file(f.path))
                for f in self._files
            ]
        else:
            listing = SHIPPED[self._data.source].listing()
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    @cached_property
    def val(self) -> list[bytes]:
        """Validation documents without exact duplicates. Raises BadInput when there are none."""
        documents = list(_unique((d for d, _ in self._read(True, LeftOut())), LeftOut()))
        if not documents and not self.val_files:
            documents = self._least_hashed()
        if not documents:
            if self.val_files:
                names = listed([self.selection.name(f) for f in self.val_files])
                raise BadInput(
                    f"there are no validation documents: {names} match data.val_pattern "
                    f"'{self._data.val_pattern}' and hold no text; fill them, or change the pattern"
                )
            where = show(self._data.path) or f"the source '{self._data.source}'"
            raise BadInput(f"{where} has no validation documents: it needs some text in two files")
        return documents

    def train(self) -> Iterator[bytes]:
        """Yield training documents up to data.train_bytes.

        Exact duplicates are left out. So are copies of validation documents, and documents that
        share more than data.overlap of their fingerprints with the validation text.
        """
        val, overlap = NearDuplicates(self.val, _KEPT), self._data.overlap
        self.dropped, self.left_out, read_bytes = 0, LeftOut(), 0
        source = self._track(self._read(False, self.left_out))
        for document in _unique(source, self.left_out):
            if val.copy_of(document) is not None or val.share(document) > overlap:
                self.dropped += 1
                continue
            yield document
            read_bytes += len(document)
            if self._data.train_bytes:
                self.share = max(self.share, min(1.0, read_bytes / self._data.train_bytes))
                if read_bytes >= self._data.train_bytes:
                    return

    def _track(self, source: Source) -> Iterator[bytes]:
        for document, self.share in source:
            yield document

    def _read(self, want_val: bool, left_out: LeftOut) -> Source:
        """Yield the documents of one split, by file name or by hash."""
        if self.val_files:
            val = {f.path for f in self.val_files}
            kept = [f for f in self._files if (f.path in val) == want_val]
            yield from read_files(kept, self._data.text_field, left_out)
            return
        for document, share in self._read_all(left_out):
            if (_hash(document) < self._val_below) == want_val:
                yield document, share

    def _read_all(self, left_out: LeftOut) -> Source:
        if self._data.source == "files":
            return read_files(self._files, self._data.text_field, left_out)
        documents = SHIPPED[self._data.source].documents()
        return ((d, (i + 1) / len(documents)) for i, d in enumerate(documents))

    def _least_hashed(self) -> list[bytes]:
        """Return the document with the lowest hash, for a corpus of a few documents."""
        unique = {_hash(document): document for document, _ in self._read_all(LeftOut())}
        if not unique:
            return []
        if len(unique) == 1:
            raise BadInput(
                f"{show(self._data.path)} holds a single document, and a split needs two: cut it "
                f"into files, or give validation text in a file that data.val_pattern "
                f"'{self._data.val_pattern}' matches"
            )
        self._val_below = min(unique) + 1
        return [unique[min(unique)]]


def _hash(document: bytes) -> int:
    """Return a number below 2^64 that decides a document's split, in every later version too."""
    return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "big")


def _unique(documents: Iterable[bytes], left_out: LeftOut) -> Iterator[bytes]:
    """Yield each document once, and count the copies."""
    seen: set[bytes] = set()
    for document in documents:
        known = len(seen)
        seen.add(digest(document))
        if len(seen) == known:
            left_out.copies += 1
        else:
            yield document
