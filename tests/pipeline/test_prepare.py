"""The verb data: shards, manifest, resuming after a kill, existing shards, bad input."""

import hashlib
import os
import shutil
import signal

import numpy as np
import pytest

import processes
from challenge_models import train_challenge_model
from fairway.config.schema import Data, Recipe, Train
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.shards import read_shard, write_shard
from fairway.errors import BadInput
from fairway.pipeline import data_folder, prepare, prepare_documents
from fairway.pipeline.data_folder import load_tokenizer, load_train, load_val
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PrepareResult
from fairway.pipeline.runner import perform

SENTENCE = "The quick brown fox number {} jumps over the lazy dog, “again” and again {}.\n"
DOCUMENTS = ["".join(SENTENCE.format(i * j, j) for j in range(30)).encode() for i in range(90)]


def recipe(**data):
    return Recipe(name="test", data=Data(**data), train=Train(steps=1))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i, document in enumerate(DOCUMENTS):
        (folder / f"{'val_' if i < 5 else 'train'}{i:03d}.txt").write_bytes(document)
    return folder


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "runs" / "one")


def made(corpus, run, **data):
    given = recipe(source="files", path=str(corpus), vocab_size=300, overlap=1.0, **data)
    run.create(given)
    return perform(given, run, PrepareResult)


def products(folder):
    """Contents of what the stage made, but for the seconds it took."""
    contents = {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}
    manifest = data_folder.read_manifest(folder)
    contents["manifest.json"] = manifest.result.model_copy(update={"prepare_s": 0.0})
    return contents


class TestDocuments:
    def test_shards_hold_the_documents(self, corpus, run):
        result = made(corpus, run)
        folder = run.data_folder(result)
        tokenizer = load_tokenizer(folder)
        text = tokenizer.decode(load_val(folder))
        train = tokenizer.decode(np.concatenate(load_train(folder)))
        lengths = np.array([len(d) for d in text], "<u8")
        assert text == DOCUMENTS[:5]
        assert train == DOCUMENTS[5:]
        assert result.val_bytes == sum(map(len, text))
        assert result.train_bytes == sum(map(len, train))
        assert result.text_sha256 == hashlib.sha256(b"".join(text)).hexdigest()
        assert result.lengths_sha256 == hashlib.sha256(lengths.tobytes()).hexdigest()
        assert (result.train_documents, result.val_documents) == (85, 5)
        assert result.vocab_size == tokenizer.vocab_size == 300
        assert result.text_rule == "bytes"
        assert run.recorded(PrepareResult) == result

    def test_several_shards_say_the_same_as_one(self, corpus, run, tmp_path, monkeypatch):
        one = made(corpus, run)
        monkeypatch.setattr(prepare_documents, "_SHARD_BYTES", 20_000)
        other_run = RunDirectory(tmp_path / "elsewhere" / "two")
        several = made(corpus, other_run)
        assert several.train_sha256 == one.train_sha256
        assert len(load_train(other_run.data_folder(several))) > 3

    def test_finished_data_is_shared_and_not_made_again(self, corpus, run, tmp_path, monkeypatch):
        first = made(corpus, run)
        monkeypatch.setattr(prepare, "_make", None)
        assert made(corpus, run) == first
        assert made(corpus, RunDirectory(run.path.parent / "two")).folder == first.folder

    def test_other_documents_make_other_data(self, corpus, run):
        first = made(corpus, run)
        (corpus / "train999.txt").write_bytes(b"One more document.")
        second = made(corpus, run)
        assert second.train_documents == first.train_documents + 1
        assert second.folder != first.folder

    def test_interrupted_work_goes_on(self, corpus, run, tmp_path, monkeypatch):
        """Stop before each product in turn; the end is the same and finished shards are kept."""
        monkeypatch.setattr(prepare_documents, "_SHARD_BYTES", 40_000)
        whole_run = RunDirectory(tmp_path / "whole" / "one")
        whole = products(whole_run.data_folder(made(corpus, whole_run)))
        write, allowed = prepare_documents.write_shard, 0

        def write_few(path, tokens):
            nonlocal allowed
            if allowed == 0:
                raise KeyboardInterrupt
            allowed -= 1
            write(path, tokens)

        monkeypatch.setattr(prepare_documents, "write_shard", write_few)
        interruptions = 0
        while True:
            try:
                result = made(corpus, run)
                break
            except KeyboardInterrupt:
                interruptions += 1
                allowed = 1
        assert interruptions == sum(name.endswith(".bin") for name in whole)
        assert products(run.data_folder(result)) == whole

    def test_killed_work_goes_on(self, corpus, run, tmp_path):
        whole_run = RunDirectory(tmp_path / "whole" / "one")
        whole = products(whole_run.data_folder(made(corpus, whole_run)))
        given = recipe(source="files", path=str(corpus), vocab_size=300, overlap=1.0)
        run.create(given)
        process = processes.Forked(perform, given, run, PrepareResult)
        processes.until(lambda: list(run.data_root.glob("*/*")), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert products(run.data_folder(perform(given, run, PrepareResult))) == whole

    def test_a_lost_shard_is_made_again(self, corpus, run):
        folder = run.data_folder(made(corpus, run))
        whole = products(folder)
        (folder / "train_000000.bin").unlink()
        with pytest.raises(BadInput, match="run fairway prepare first"):
            load_train(folder)
        made(corpus, run)
        assert products(folder) == whole

    def test_leftovers_of_a_kill_are_removed(self, corpus, run):
        folder = run.data_folder(made(corpus, run))
        (folder / "manifest.json").unlink()
        (folder / ".train_000000.bin.123.tmp").write_bytes(b"half")
        made(corpus, run)
        assert not list(folder.glob(".*.tmp"))

    def test_near_duplicates_are_counted(self, corpus, run):
        (corpus / "train998.txt").write_bytes(DOCUMENTS[0] + b"And the end.")
        given = recipe(source="files", path=str(corpus), vocab_size=300, overlap=0.9)
        run.create(given)
        result = perform(given, run, PrepareResult)
        assert result.dropped_documents >= 1
        assert result.train_documents + result.dropped_documents == 86


class TestShards:
    @pytest.fixture
    def challenge(self, tmp_path):
        """Two train shards and one val shard of a tokenizer with the challenge's settings."""
        folder = tmp_path / "shards"
        folder.mkdir()
        text = b"".join(DOCUMENTS).decode()
        train_challenge_model(folder / "small.model", text, hard_vocab_limit=False)
        tokenizer = load_challenge(folder / "small.model")
        for name, documents in {
            "fineweb_train_000000": DOCUMENTS[5:40],
            "fineweb_train_000001": DOCUMENTS[40:],
            "fineweb_val_000000": DOCUMENTS[:5],
        }.items():
            write_shard(folder / f"{name}.bin", tokenizer.encode_documents(documents))
        return folder

    def shards(self, folder, run, **data):
        tokenizer = str(folder / "small.model")
        given = recipe(source="shards", path=str(folder), tokenizer=tokenizer, **data)
        run.create(given)
        return perform(given, run, PrepareResult)

    def test_are_used_where_they_lie(self, challenge, run):
        result = self.shards(challenge, run)
        folder = run.data_folder(result)
        assert {p.name for p in folder.iterdir()} == {".lock", "tokenizer.fwt", "manifest.json"}
        text = load_tokenizer(folder).decode(load_val(folder))
        normal = [b" ".join(document.split()) for document in DOCUMENTS]
        assert text == normal[:5]
        assert result.text_rule == "challenge"
        assert result.val_bytes == sum(map(len, normal[:5]))
        assert result.train_bytes == sum(map(len, normal[5:]))
        assert (result.train_documents, result.val_documents) == (85, 5)
        assert result.train_tokens == sum(shard.size for shard in load_train(folder))

    @pytest.mark.parametrize("scan_tokens", [100, 1 << 22])
    def test_train_bytes_cuts_a_shard(self, challenge, run, monkeypatch, scan_tokens):
        monkeypatch.setattr(data_folder, "SCAN_TOKENS", scan_tokens)
        result = self.shards(challenge, run, train_bytes=3000)
        folder = run.data_folder(result)
        (tokens,) = load_train(folder)
        lengths = load_tokenizer(folder).byte_lengths(tokens)
        assert result.train_bytes == lengths.sum()
        assert 2990 <= lengths.sum() <= 3000
        assert result.train_documents == np.count_nonzero(tokens == 1)

    def test_damage_and_absence_are_named(self, challenge, run, tmp_path):
        shard = challenge / "fineweb_train_000001.bin"
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(BadInput, match=r"fineweb_train_000001\.bin is damaged"):
            self.shards(challenge, run)
        shard.unlink()
        (challenge / "fineweb_val_000000.bin").unlink()
        with pytest.raises(BadInput, match=r"no shards \*_val_\*\.bin"):
            self.shards(challenge, run)

    @pytest.mark.parametrize(
        ("split", "tokens", "message"),
        [
            ("val", [], r"the validation shards in .*shards hold no tokens: fineweb_val_0"),
            ("val", [1], "no validation text: its 1 tokens write 0 bytes"),
            ("val", [1, 1, 1], "no validation text: its 3 tokens write 0 bytes"),
            ("train", [], r"the training shards in .*shards hold no tokens: fineweb_train_0"),
            ("train", [1] * 9, "no training text: its 18 tokens write 0 bytes"),
            ("train", [1] + [60] * 254, "has 510 tokens and a window takes 256"),
        ],
    )
    def test_splits_without_text_are_refused(self, challenge, run, split, tokens, message):
        for path in challenge.glob(f"*_{split}_*.bin"):
            write_shard(path, np.array(tokens, np.uint16))
        with pytest.raises(BadInput, match=message):
            self.shards(challenge, run)
        assert run.recorded(PrepareResult) is None

    def test_an_empty_shard_beside_others_is_left_out_with_a_line(self, challenge, run, capfd):
        write_shard(challenge / "fineweb_train_000000.bin", np.array([], np.uint16))
        result = self.shards(challenge, run)
        assert result.train_documents == 50
        assert "(holds no tokens): fineweb_train_000000.bin" in capfd.readouterr().err

    def test_train_bytes_below_a_window(self, challenge, run):
        with pytest.raises(BadInput, match=r"give it at least 512 tokens, or make model\.window"):
            self.shards(challenge, run, train_bytes=100)

    def test_tokens_that_write_no_text_of_the_rule_are_refused(self, challenge, run):
        """A space that stands as the three bytes of U+2581 would be counted as three."""
        shard = challenge / "fineweb_val_000000.bin"
        honest = np.array(read_shard(shard))
        spaces = 4 + np.array([0xE2, 0x96, 0x81], np.uint16)
        write_shard(shard, np.concatenate([honest[:9], spaces, honest[9:]]))
        with pytest.raises(BadInput, match=r"document 0 of the validation .* U\+2581"):
            self.shards(challenge, run)
        write_shard(shard, honest[:-3])  # the last document may be cut
        assert self.shards(challenge, run).val_documents == 5

    def test_tokens_of_another_tokenizer_are_refused(self, challenge, run):
        write_shard(challenge / "fineweb_train_000001.bin", np.array([1, 999], np.uint16))
        with pytest.raises(BadInput, match="another tokenizer made them"):
            self.shards(challenge, run)


class TestWhatIsSaid:
    def test_where_every_file_went_and_how_much_text_it_was(self, corpus, run, capfd):
        (corpus / "page.html").write_bytes(b"<p>")
        (corpus / "copy.txt").write_bytes(DOCUMENTS[7])
        (corpus / "values.txt").write_bytes(b"Our values.")
        result = made(corpus, run)
        told = capfd.readouterr().err
        assert ": 92; 87 for training, 5 for validation (val_000.txt, val_001.txt" in told
        assert "; 1 other entries skipped\nskipped 1 (unknown ending): page.html\n" in told
        assert "left out of the training text: 1 exact copies" in told
        assert f"validation text: {result.val_bytes:,} bytes in 5 documents; " in told
        assert f"training text: {result.train_bytes:,} bytes in 86 documents" in told
        made(corpus, run)  # finished before
        cached = (
            f"prepare: cached: {result.train_bytes:,} bytes to train on, {result.val_bytes:,} to"
        )
        assert cached in capfd.readouterr().err


class TestBadInput:
    def test_a_vocabulary_too_large(self, corpus, run):
        given = recipe(source="files", path=str(corpus), vocab_size=5000)
        run.create(given)
        with pytest.raises(BadInput, match="vocab_size 5000 is too large"):
            perform(given, run, PrepareResult)

    def test_nothing_left_to_train_on(self, tmp_path, run):
        folder = tmp_path / "copies"
        folder.mkdir()
        for name in ("val.txt", "train.txt"):
            (folder / name).write_bytes(DOCUMENTS[1])
        with pytest.raises(BadInput, match="too little train text"):
            made(folder, run)

    def test_a_full_disk(self, corpus, run, monkeypatch):
        def full(path, tokens):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prepare_documents, "write_shard", full)
        with pytest.raises(BadInput, match="No space left on device; make room"):
            made(corpus, run)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_an_unwritable_folder(self, corpus, run):
        run.path.mkdir(parents=True)
        run.path.parent.chmod(0o500)
        with pytest.raises(BadInput, match="cannot write"):
            made(corpus, run)

    def test_loading_what_is_not_there(self, tmp_path):
        with pytest.raises(BadInput, match="no finished data"):
            load_val(tmp_path)
        with pytest.raises(BadInput, match="cannot read"):
            load_tokenizer(tmp_path)

    def test_two_at_a_time(self, corpus, run):
        folder = run.data_folder(made(corpus, run))
        shutil.rmtree(folder)
        run.invalidate(PrepareResult)
        with prepare.lock_folder(folder), pytest.raises(BadInput, match="in use by process"):
            made(corpus, run)
