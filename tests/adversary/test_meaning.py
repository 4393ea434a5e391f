"""A sample of the campaign of meaning; `make campaign` has all of it."""

import json
import os
import shutil
import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lies
import meaning

from fairway.config.toml import loads
from fairway.pipeline import prove as proving
from fairway.pipeline.stage import stages_of

EVERY = 97  # of all trials; no divisor of how many commands there are


@pytest.fixture(scope="module")
def place(finished_tiny, tmp_path_factory):
    before = os.environ.get("XDG_STATE_HOME")
    yield meaning.Place(finished_tiny, tmp_path_factory.mktemp("lies"))
    os.environ.pop("XDG_STATE_HOME")
    if before is not None:
        os.environ["XDG_STATE_HOME"] = before
    meaning.verdicts._decoded_here.clear()


def test_lies_are_told_about_every_field(finished_tiny):
    told = list(lies.lies(finished_tiny))
    assert len({(lie.file, lie.name) for lie in told}) >= 400
    for stage in stages_of(loads((finished_tiny / "recipe.toml").read_text("utf-8"))):
        fields = set(stage.result.model_fields)
        about = {x.name.split(" ")[0].split(".")[0] for x in told if x.file == f"{stage.name}.json"}
        assert fields <= about
        assert lies.FOLLOWS.get(stage.name, set()) <= fields
    recipe = finished_tiny / "recipe.toml"
    fields = [line for line in recipe.read_text("utf-8").splitlines() if " = " in line]
    assert len([lie for lie in told if lie.file == "recipe.toml"]) == len(fields)


def test_no_lie_is_accepted(place):
    """Through reports, comparisons, the Hub's card, submissions and remembered verdicts."""
    seen = set()
    for lie, command, state in meaning.trials(place.honest, EVERY, 0, place.states):
        said = place.judge(lie, command, state)
        seen.add(command)
        assert not said, f"{command} [{state}]: {lie.file}: {lie.name}: {said}"
    assert seen == set(meaning.COMMANDS)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("two files", "garbage with results of its hashes"),
        ("prove.json", "bpb = 0.4321"),
    ],
)
def test_verify_accepts_no_lie(place, file, name):
    """By decoding, in a run folder whose owner has written whatever he likes."""
    (lie,) = [x for x in lies.lies(place.honest) if (x.file, x.name) == (file, name)]
    assert not place.judge(lie, "verify RUN", "unknown")


def test_the_judge_sees_what_is_stated_without_a_word():
    """A picture, a cell and a sentence of the claimed figure, each as an older version wrote it."""
    page = (
        '<p class="headline">0.4321 bits per byte, proved</p><section><h2>The course</h2>'
        "<tr><th>stage</th><th>bits per byte</th></tr><tr><td>proved</td><td>0.4321</td></tr>"
        "<tr><td>scored</td><td>0.4321, claimed</td></tr><p class='note'>Bytes: 12.</p></section>"
        "<figcaption>Stages</figcaption><svg><text>proved</text><text>0.4321</text></svg></figure>"
    )
    said = meaning.of_page(page)
    assert {text for text, is_marked in said.items() if not is_marked} == {
        "0.4321 bits per byte, proved",
        "The course | proved | stage: proved",
        "The course | proved | bits per byte: 0.4321",
        "The course: Bytes: 12",
        "Stages: proved: 0.4321",
    }


def test_no_changed_field_of_the_two_files_decodes_to_false_figures(finished_tiny, tmp_path):
    model = (finished_tiny / "model.fairway").read_bytes()
    proof = (finished_tiny / "proof" / "val.fwp").read_bytes()
    proving.decode(finished_tiny / "model.fairway", finished_tiny / "proof/val.fwp", tmp_path / "t")
    text = (tmp_path / "t").read_bytes()
    assert meaning.judge_pair(model, proof, text, tmp_path) == ""
    told = list(lies.pair_lies(model, proof))
    assert len(told) >= 100
    for file, name, m, p in told[::18]:
        said = meaning.judge_pair(m, p, text, tmp_path)
        assert said in (None, "", "decodes to another text"), f"{file}: {name}: {said}"


def test_a_submission_folder_is_held_against_its_proofs(place):
    place.use("known")
    folder = meaning.submission_folder(place.honest, place.scratch)
    good = {f.rule: f.verdict for f in meaning.checks.check(folder).findings}
    told = list(lies.folder_lies(folder))
    assert len(told) >= 100
    for lie in islice(told, 3, None, len(told) // 5):
        said = meaning.judge_folder(lie, folder, good, place.scratch)
        assert said is None, f"{lie.file}: {lie.name}: {said}"
    shutil.rmtree(folder)


def test_a_lie_is_told_in_a_copy(place):
    """Copies share their bytes with the honest run until something is told in them."""
    before = {f: f.read_bytes() for f in place.honest.rglob("*") if f.is_file()}
    for lie in lies.lies(place.honest):
        run, _ = place.fresh("copy")
        lie.tell(run.path)
    assert {f: f.read_bytes() for f in place.honest.rglob("*") if f.is_file()} == before
    assert json.loads((place.honest / "prove.json").read_text("utf-8"))["bpb"] > 1
