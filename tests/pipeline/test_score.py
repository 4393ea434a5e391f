import copy
import json

import numpy as np
import pytest
import torch

import processes
from fairway import distributed
from fairway.coding import artifact, online
from fairway.coding.exact_model import ExactModel
from fairway.coding.float_model import FloatModel, FloatStepper
from fairway.coding.lanes import LONGEST_DOCUMENT, Layout, lane_starts
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Adapt, Run, Score
from fairway.config.toml import loads
from fairway.errors import BadInput
from fairway.exact.cuda import DeviceOperands
from fairway.formats import coded_tokens
from fairway.io import checkpoint
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.prove import decode
from fairway.pipeline.results import PrepareResult, ProveResult, ScoreResult
from fairway.pipeline.runner import perform
from short import load_short

TOKENS = 4200  # two lanes


@pytest.fixture(scope="module")
def tokens():
    """Documents of very different lengths."""
    random = np.random.default_rng(4)
    drawn = random.integers(1, 300, TOKENS).astype(np.uint16)
    drawn[random.random(TOKENS) < 0.02] = 0
    drawn[0] = 0
    return drawn


def costs_of(model, tokens, how):
    return text_costs(model, tokens, how, online.division(Adapt(), 128))


def nats(model, tokens, protocol, stride=1):
    """float64[N]: nats of each token, 0 for the first; checks that each is charged once."""
    found = np.zeros(len(tokens))
    times = np.zeros(len(tokens), int)
    for costs in costs_of(FloatModel(model), tokens, Score(protocol=protocol, stride=stride)):
        found[costs.positions] += costs.nats
        times[costs.positions] += 1
    assert times[0] == 0
    assert (times[1:] == 1).all()
    return found


def one_by_one(model, tokens):
    """float64[N]: nats of each token by the stepper, in one lane."""
    stepper = FloatStepper(model, 1)
    logits = torch.cat([stepper.logits(np.array([int(token)])) for token in tokens[:-1]])
    target = torch.from_numpy(tokens[1:].astype(np.int64))
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return np.append(0, losses.double().numpy())


def test_rolling_is_what_the_stepper_computes(lively_model, tokens):
    np.testing.assert_allclose(
        nats(lively_model, tokens, "rolling"), one_by_one(lively_model, tokens), atol=1e-4
    )


def test_sliding_by_one_has_the_same_nats_where_documents_fit_the_window(lively_model):
    random = np.random.default_rng(5)
    tokens = random.integers(1, 300, 600).astype(np.uint16)
    tokens[::20] = 0
    sliding = nats(lively_model, tokens, "sliding", stride=1)
    np.testing.assert_allclose(sliding, nats(lively_model, tokens, "rolling"), atol=1e-4)


def test_plain_equals_rolling_where_each_window_is_a_document(lively_model):
    window = lively_model.shape.window
    tokens = np.random.default_rng(6).integers(1, 300, 20 * window).astype(np.uint16)
    tokens[::window] = 0
    plain, rolling = (nats(lively_model, tokens, p) for p in ("plain", "rolling"))
    np.testing.assert_allclose(plain, rolling, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 5, 16, 32])
def test_sliding_charges_each_token_once_and_more_overlap_changes_little(
    lively_model, tokens, stride
):
    few = tokens[:500]
    difference = nats(lively_model, few, "sliding", stride) - nats(lively_model, few, "rolling")
    assert abs(difference.mean()) < 0.05


def test_lanes_cut_only_what_is_too_long(lively_model):
    """Of a document of three lanes, the tokens after the two cuts lack context, no others."""
    tokens = np.random.default_rng(7).integers(1, 300, 3 * LONGEST_DOCUMENT).astype(np.uint16)
    tokens[0] = 0
    layout = Layout(len(tokens), lane_starts(len(tokens), np.array([0]), 32), boundaries=True)
    assert layout.lanes == 3
    found, whole = nats(lively_model, tokens, "rolling"), nats(lively_model, tokens, "sliding", 16)
    assert abs(found.mean() - whole.mean()) < 0.01


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("protocol", ["plain", "sliding", "rolling"])
def test_tiny_texts(lively_model, protocol, count):
    tokens = np.array([0, 5, 0], np.uint16)[:count]
    assert (nats(lively_model, tokens, protocol)[1:] > 0).all()


def test_a_model_that_ignores_documents_scores_too(lively_model, tokens):
    shape = lively_model.shape.model_copy(update={"document_aware": False})
    blind = type(lively_model)(shape, 300, 0)
    blind.load_state_dict(copy.deepcopy(lively_model.state_dict()))
    np.testing.assert_allclose(
        nats(blind, tokens[:700], "rolling"), one_by_one(blind, tokens[:700]), atol=1e-4
    )


def test_a_stride_beyond_the_window_is_refused(lively_model, tokens):
    with pytest.raises(BadInput, match="larger than the window"):
        costs_of(FloatModel(lively_model), tokens, Score(protocol="sliding", stride=33))


def test_the_verb_saves_its_result_and_skips_finished_work(tiny):
    recipe = loads(tiny.recipe.read_text())
    before = tiny.recorded(ScoreResult)
    assert perform(recipe, tiny, ScoreResult) == before
    tiny.invalidate(ScoreResult)
    again = perform(recipe, tiny, ScoreResult)
    assert again.tokens == tiny.recorded(PrepareResult).val_tokens - 1
    assert again.text_bytes == tiny.recorded(PrepareResult).val_bytes
    assert (again.bpb, again.nats_per_token) == (before.bpb, before.nats_per_token)
    assert tiny.recorded(ScoreResult) == again
    tiny.record(again.model_copy(update={"artifact_sha256": "0" * 64, "bpb": 0.1}))
    again = perform(recipe, tiny, ScoreResult)
    assert again.bpb == before.bpb, "the score of another artifact was taken up"


def test_the_protocols_agree_on_a_trained_model(tiny):
    recipe = loads(tiny.recipe.read_text())
    found = [
        perform(
            recipe.model_copy(update={"score": Score(protocol=p, stride=4)}), tiny, ScoreResult
        ).bpb
        for p in ("rolling", "sliding", "plain")
    ]
    assert max(found) - min(found) < 0.02


def test_another_text_has_its_own_result(tiny, tmp_path):
    file = tmp_path / "other.txt"
    file.write_bytes(b"Some \xff other text.\r\n" * 20)
    before = tiny.recorded(ScoreResult)
    result = perform(loads(tiny.recipe.read_text()), tiny, ScoreResult, file)
    assert result.text_bytes == file.stat().st_size
    assert tiny.recorded(ScoreResult) == before
    assert tiny.for_text(file).recorded(ScoreResult) == result


def test_texts_that_cannot_be_scored(tiny, tmp_path):
    recipe = load_short()
    with pytest.raises(BadInput, match="no such file"):
        perform(recipe, tiny, ScoreResult, tmp_path / "missing.txt")
    tiny.invalidate(ScoreResult)
    shard = next(tiny.data_folder(tiny.recorded(PrepareResult)).glob("val*.bin"))
    changed = bytearray(shard.read_bytes())
    changed[-2] ^= 1  # another token
    shard.write_bytes(changed)
    with pytest.raises(BadInput, match="do not decode to the text"):
        perform(recipe, tiny, ScoreResult)


def exact_nats(model, tokens, protocol, stride=1):
    found = np.full(len(tokens), np.nan)
    for costs in costs_of(model, tokens, Score(protocol=protocol, stride=stride)):
        assert np.isnan(found[costs.positions]).all()
        found[costs.positions] = costs.nats
    assert np.isnan(found[0])
    return found[1:]


@pytest.mark.parametrize(("protocol", "stride"), [("plain", 1), ("sliding", 7), ("rolling", 1)])
def test_exact_scores_are_those_of_floating_point(artifact_file, tokens, protocol, stride):
    opened = artifact.read(artifact_file)
    exact = exact_nats(ExactModel(opened), tokens[:900], protocol, stride)
    real = nats(opened.build_model(), tokens[:900], protocol, stride)[1:]
    assert np.abs(exact - real).max() < 0.02
    assert exact.mean() == pytest.approx(real.mean(), abs=1e-4)


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_exact_lanes_cost_what_one_lane_does(artifact_file, tokens, device):
    """But for what a cut document loses, it does not matter how many lanes there are, how many of
    them are computed together, nor by which implementation."""
    model = ExactModel(artifact.read(artifact_file), 2)
    documents = np.flatnonzero(tokens == 0)

    def lengths(lanes):
        layout = Layout(len(tokens), lane_starts(len(tokens), documents, lanes), boundaries=True)
        return {
            int(position): length
            for costs in model.token_costs(tokens, layout)
            for position, length in zip(costs.positions, costs.intervals.bits, strict=True)
        }

    one = lengths(1)
    model.together = 5
    if device:
        model._uploaded = DeviceOperands(model.operands, device)
    assert lengths(2) == one


def test_a_failure_in_a_lane_is_raised(artifact_file):
    model = ExactModel(artifact.read(artifact_file), 2)
    for length in (2, 300):
        tokens = np.append(0, np.full(length - 1, 60000)).astype(np.uint16)
        with pytest.raises(IndexError):
            exact_nats(model, tokens, "rolling")


def test_a_killed_adapting_score_goes_on_to_the_same_result(tiny, monkeypatch):
    recipe = loads(tiny.recipe.read_text()).model_copy(update={"adapt": Adapt(method="dynamic")})
    monkeypatch.setattr(online, "CHUNK_TOKENS_PER_LANE", 2000)
    monkeypatch.setattr(online, "CHUNK_TOKENS", 2000)
    whole = perform(recipe, tiny, ScoreResult)
    assert not tiny.score_learned.exists()
    tiny.invalidate(ScoreResult)
    save = checkpoint.save

    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        perform(recipe, tiny, ScoreResult)
    assert tiny.score_learned.exists()
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = perform(recipe, tiny, ScoreResult)
    assert (resumed.bpb, resumed.tokens) == (whole.bpb, whole.tokens)


def test_what_an_adapting_score_of_something_else_kept_is_not_taken_up(tiny, monkeypatch):
    recipe = loads(tiny.recipe.read_text()).model_copy(update={"adapt": Adapt(method="dynamic")})
    whole = perform(recipe, tiny, ScoreResult)
    tiny.invalidate(ScoreResult)
    model = open_model(artifact.read(tiny.artifact), "float", recipe.adapt, tokens=10)
    note = {"about": "another text", "nats": 1.0, "done": 5, "seconds": 1.0}
    checkpoint.save(tiny.score_learned, model.snapshot(), note)
    assert perform(recipe, tiny, ScoreResult).bpb == whole.bpb


def test_the_clock_stops_a_score_and_says_how_far_it_came(tiny):
    recipe = loads(tiny.recipe.read_text())
    late = recipe.model_copy(update={"run": Run(score_limit_s=1e-6)})
    tiny.invalidate(ScoreResult)
    with pytest.raises(
        BadInput, match=r"by then [\d,]+ of [\d,]+ tokens were scored, at [\d.]+ bits"
    ):
        perform(late, tiny, ScoreResult)


def score_and_prove(run_path, text, sets):
    """Do the work of one rank; a short text is enough for two lanes."""
    coded_tokens.TOKENS_PER_LANE = 32
    run = RunDirectory(run_path)
    recipe = run.load(sets)
    perform(recipe, run, ScoreResult, text)
    perform(recipe, run, ProveResult, text)
    distributed.leave()


@pytest.mark.parametrize("method", ["sgd", "dynamic", "lora"])
def test_two_processes_score_as_one(tiny, method, tmp_path, monkeypatch):
    """Lanes that learn together are shared out; a proof is the work of one."""
    sets = [f"adapt.method={method}", "adapt.order=lanes", "adapt.lanes=2"]
    text, documents = tmp_path / "text.jsonl", ["Return the sum of the elements. " * 9] * 4
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    place = tiny.for_text(text)
    found = []
    for count in (1, 2):
        for rank in processes.ranks(tiny.path, text, sets, work=score_and_prove, count=count):
            assert rank.wait() == 0, rank.stderr
        results = place.require(ScoreResult), place.require(ProveResult)
        found.append((*results, place.proof_file.read_bytes()))
        place.invalidate(ScoreResult)
        place.invalidate(ProveResult)
    (one, proved, first), (two, _, second) = found
    assert one.bpb == pytest.approx(two.bpb, rel=1e-6)
    assert one.order == ("left-to-right" if method == "lora" else "lanes")
    assert proved.lanes == 2
    assert first == second
    monkeypatch.setattr(coded_tokens, "TOKENS_PER_LANE", 32)
    (tmp_path / "proof").write_bytes(second)
    decode(tiny.artifact, tmp_path / "proof", tmp_path / "decoded")
    assert (tmp_path / "decoded").read_text() == "".join(documents)
