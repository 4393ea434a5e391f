"""`submit --check` with proofs: they are decoded, and no number that disagrees with them passes."""

import json
import shutil

import pytest

from fairway.challenge.checks import check
from fairway.config.schema import Pack
from fairway.config.toml import load
from fairway.model.gpt import build
from fairway.page.proof import page_of_bytes
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.inspect import inspect
from fairway.pipeline.pack import pack_weights
from fairway.pipeline.prove import prove

SEEDS = (1, 2, 3)
SCRIPT = "print('a script')\n"


@pytest.fixture(scope="module")
def proved(lively_model, tokenizer, tmp_path_factory):
    """A folder with three artifacts, a proof of one short text for each, and their logs."""
    root = tmp_path_factory.mktemp("proved")
    text = root / "text.txt"
    text.write_text("the cat sat on a mat and the dog ran after some bird " * 8)
    folder = root / "folder"
    folder.mkdir()
    results = [one_seed(root, folder, text, seed, lively_model, tokenizer) for seed in SEEDS]
    (folder / "README.md").write_text("# proved\n")
    (folder / "train_gpt.py").write_text(SCRIPT)
    claims = {
        "author": "A", "github_id": "a", "name": "n", "blurb": "b", "date": "2026-04-01",
        "val_loss": 2.0,
        "val_bpb": sum(r.bpb for r in results) / 3,
        "text_sha256": results[0].text_sha256,
        "seeds": list(SEEDS),
        "seed_results": {str(s): {"val_bpb": r.bpb} for s, r in zip(SEEDS, results, strict=True)},
        "bytes_total": (folder / "seed1" / "model.fairway").stat().st_size + len(SCRIPT),
    }  # fmt: skip
    (folder / "submission.json").write_text(json.dumps(claims))
    return folder


def one_seed(root, folder, text, seed, model, tokenizer):
    weights = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    other = build(model.shape, vocab_size=300, bos_id=0, seed=seed + 10).state_dict()
    weights |= {name: w + 0.01 * other[name].numpy() for name, w in weights.items() if w.ndim == 2}
    run = RunDirectory(root / f"run{seed}")
    run.path.mkdir()
    packed = pack_weights(model.shape, tokenizer, weights, {}, Pack(quantizer="uniform", step=0.1))
    run.artifact.write_bytes(packed.data)
    result = prove(Job(load("tiny"), run, text))
    place = folder / f"seed{seed}"
    place.mkdir()
    shutil.copy(run.artifact, place)
    shutil.copy(run.for_text(text).proof_file, place / "val.fwp")
    size = len(packed.data)
    about = {"text_sha256": result.text_sha256, "artifact_sha256": result.artifact_sha256}
    files = {
        "prove": json.loads(result.model_dump_json()),
        "score": about | {"bpb": result.bpb - 0.01, "text_bytes": result.text_bytes},
        "pack": {"artifact_bytes": size, "artifact_sha256": result.artifact_sha256,
                 "parts": inspect(run.artifact).parts},
        "prepare": {"text_sha256": result.text_sha256, "val_bytes": result.text_bytes,
                 "lengths_sha256": result.lengths_sha256},
        "train": {"seed": seed},
    }  # fmt: skip
    for name, tree in files.items():
        (place / f"{name}.json").write_text(json.dumps(tree))
    (folder / f"train_seed{seed}.log").write_text(
        f"val_loader: tokens:{result.tokens} bytes:{result.text_bytes} "
        f"sha256:{result.text_sha256}\nmodel_params:9 world_size:1 seed:{seed}\n"
        f"step:9/9 train_loss:3.{seed}111 train_time:900ms\n"
        f"Serialized model fairway: {size} bytes\nCode size: {len(SCRIPT)} bytes\n"
        f"Total submission size fairway: {size + len(SCRIPT)} bytes\n"
        f"proof: artifact_sha256:{result.artifact_sha256}\n"
        f"final_proof_exact val_bpb:{result.bpb:.8f} eval_time:100ms\n"
    )
    return result


@pytest.fixture
def folder(proved, tmp_path):
    return shutil.copytree(proved, tmp_path / "folder")


def said(result):
    return {f.rule: f.evidence for f in result.findings if f.verdict != "yes"}


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_proved_folder_passes(folder):
    """Its text is not the challenge's, which is said; all that it states is shown by its files."""
    result = check(folder)
    assert result.failure == "", said(result)
    assert list(said(result)) == ["challenge's text: decoded bytes"]
    verdicts = {f.rule: f.evidence for f in result.findings}
    assert "the decoded proofs have" in verdicts["score: val_bpb = the decoded proofs' mean"]


def changed(value):
    """Other values of the same type, near and far."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [value[::-1] + "x", value.upper() + "0", ""] if value else ["x"]
    if isinstance(value, int | float):
        return [value * 1.01 + 0.001, -value - 1, 0 if value else 1, str(value), None]
    return [{}, {"x": 1}, None]


SHOWN = {
    "prove": ("bpb", "text_bytes", "text_sha256", "lengths_sha256", "artifact_sha256", "files"),
    "score": ("bpb", "text_bytes", "text_sha256", "artifact_sha256"),
    "pack": ("artifact_bytes", "artifact_sha256", "parts"),
    "prepare": ("text_sha256", "val_bytes", "lengths_sha256"),
    "train": ("seed",),
}


@pytest.mark.parametrize("name", SHOWN)
def test_no_edited_result_file_passes(folder, name):
    """Every field that the proof shows, set to something else, one at a time."""
    file = folder / "seed2" / f"{name}.json"
    honest = file.read_text()
    for field in SHOWN[name]:
        for value in changed(json.loads(honest)[field]):
            if (name, field, value) in (("pack", "parts", None), ("pack", "parts", {})):
                continue  # not stated
            edit(file, **{field: value})
            result = check(folder)
            rule = "proof of seed2: decodes to what its files and log state"
            assert f"{name}.json: {field}"[:12] in said(result).get(rule, ""), (field, value)
            assert result.failure
            file.write_text(honest)
    assert check(folder).failure == ""


def log_says(before, after):
    def lie(folder):
        file = folder / "train_seed2.log"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    return lie


def claims(**fields):
    return lambda folder: edit(folder / "submission.json", **fields)


def better_everywhere(folder):
    """The log, the claim and the result file agree on a score that the proof does not show."""
    logged = json.loads((folder / "seed2" / "prove.json").read_text())["bpb"]
    log_says(f"{logged:.8f}", "0.50000000")(folder)
    edit(folder / "seed2" / "prove.json", bpb=0.5)
    mean = json.loads((folder / "submission.json").read_text())
    results = mean["seed_results"] | {"2": {"val_bpb": 0.5}}
    total = sum(x["val_bpb"] for x in results.values()) / 3
    claims(seed_results=results, val_bpb=total)(folder)


def swapped(folder):
    (folder / "seed1").rename(folder / "x")
    (folder / "seed2").rename(folder / "seed1")
    (folder / "x").rename(folder / "seed2")


def one_artifact(folder):
    for name in ("model.fairway", "val.fwp", "prove.json"):
        shutil.copy(folder / "seed1" / name, folder / "seed2" / name)


LIES = {
    "a better score": ("score", claims(val_bpb=0.9)),
    "a better score, the proof's beside it": (
        "score", lambda f: claims(
            proved_bpb=json.loads((f / "submission.json").read_text())["val_bpb"], val_bpb=1.0)(f)),
    "a better proved score": ("score", claims(proved_bpb=0.9)),
    "a better score of a seed": ("seed_results", claims(seed_results={"2": {"val_bpb": 0.9}})),
    "a better score everywhere": ("score", better_everywhere),
    "another text in submission.json": ("text", claims(text_sha256="0" * 64)),
    "another text in a log": ("text", log_says("sha256:", "sha256:" + "0" * 64 + " was:")),
    "the challenge's tokens": ("text", log_says("tokens:", "tokens:62021632 was:")),
    "another size of text": ("text", log_says(" bytes:", " bytes:151080891 was:")),
    "another artifact in a log": (
        "proof of seed2", log_says("artifact_sha256:", f"artifact_sha256:{'0' * 64} was:")),
    "another size of model": ("size", log_says("model fairway: ", "model fairway: 1")),
    "no proof of one seed": ("proof of seed2", lambda f: (f / "seed2" / "val.fwp").unlink()),
    "no folder of one seed": ("score", lambda f: shutil.rmtree(f / "seed2")),
    "no prove.json": ("proof of seed2", lambda f: (f / "seed2" / "prove.json").unlink()),
    "seeds swapped": ("proof of seed1", swapped),
    "one artifact for two seeds": ("seeds", one_artifact),
    "a damaged proof": (
        "proof of seed2", lambda f: (f / "seed2" / "val.fwp").write_bytes(b"FWPF" + bytes(60))),
    "a proof that is a link": ("proof of seed2", lambda f: (
        (f / "seed2" / "val.fwp").unlink(),
        (f / "seed2" / "val.fwp").symlink_to("../seed1/val.fwp"))),
    "results that are no JSON": (
        "proof of seed2", lambda f: (f / "seed2" / "prove.json").write_text("[" * 10_000)),
    "two values for one name": (
        "proof of seed2", lambda f: (f / "seed2" / "prove.json").write_text(
            '{"bpb": 0.5, ' + (f / "seed2" / "prove.json").read_text()[1:])),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_no_lie_passes_beside_a_proof(folder, name):
    topic, lie = LIES[name]
    lie(folder)
    result = check(folder)
    assert result.failure
    assert topic in {rule.partition(":")[0] for rule in said(result)}, said(result)


def page_of(seed):
    return page_of_bytes(*((seed / name).read_bytes() for name in ("model.fairway", "val.fwp")))


def test_a_page_passes_if_it_is_what_the_two_files_make(folder):
    page = page_of(folder / "seed1")
    (folder / "seed1" / "proof.html").write_bytes(page)
    result = check(folder)
    assert result.failure == "", said(result)
    (found,) = (f for f in result.findings if f.topic.startswith("page"))
    assert (found.topic, found.verdict) == ("page seed1/proof.html", "yes")
    (folder / "seed1" / "proof.html").unlink()
    sizes = [[f for f in r.findings if f.topic == "size"] for r in (result, check(folder))]
    assert sizes[0] == sizes[1]  # a page is no code


@pytest.mark.parametrize(
    ("place", "made"),
    [
        ("seed1/proof.html", lambda page: page + b"\n"),
        ("seed1/proof.html", lambda page: page.replace(b"<h1", b"<h2", 1)),
        ("seed2/proof.html", lambda page: page),
        ("seed4/proof.html", lambda page: page),
        ("proof.html", lambda page: page),
        ("seed1/page.html", lambda page: page),
    ],
)
def test_no_other_page_passes(folder, place, made):
    file = folder / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(made(page_of(folder / "seed1")))
    failed = said(check(folder))
    name = f"page {place}" if place.endswith("proof.html") and "/" in place else "size"
    assert any(rule.startswith(name) for rule in failed), failed


def test_a_page_that_is_a_link_is_not_followed(folder):
    (folder / "seed1" / "proof.html").write_bytes(page_of(folder / "seed1"))
    (folder / "seed2" / "proof.html").symlink_to("../seed1/proof.html")
    result = check(folder)
    assert "seed2/proof.html is a link" in result.findings[0].evidence
    assert not any(f.rule.startswith("page seed2") for f in result.findings)
