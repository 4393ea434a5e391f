"""Recipes: TOML in, TOML out, and every problem named at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.config.schema import Recipe, Train
from fairway.config.toml import dumps, load, loads, shipped
from fairway.errors import BadInput


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_and_survive_a_round_trip(name):
    recipe = load(name)
    assert recipe.name == name
    assert loads(dumps(recipe)) == recipe


@given(
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    lr=st.floats(1e-30, 1e30),
    steps=st.integers(1, 1 << 40),
    smear=st.booleans(),
)
def test_dumps_and_loads_are_inverse(name, lr, steps, smear):
    recipe = Recipe(name=name, train=Train(steps=steps))
    recipe = recipe.model_copy(
        update={
            "optim": recipe.optim.model_copy(update={"matrix_lr": lr}),
            "model": recipe.model.model_copy(update={"smear": smear}),
        }
    )
    assert loads(dumps(recipe)) == recipe


def test_overrides_take_numbers_words_and_strings():
    recipe = load(
        "tiny",
        ["model.num_layers=3", "data.path=../a b", "optim.matrix_lr=1e-3", "model.smear=false"],
    )
    assert recipe.model.num_layers == 3
    assert recipe.data.path == "../a b"
    assert recipe.optim.matrix_lr == 1e-3
    assert recipe.model.smear is False


def test_a_number_can_be_the_name_of_a_file():
    recipe = load(
        "tiny", ["data.path=2024", "data.tokenizer=1e3", "description='a b'", "name=true"]
    )
    assert (recipe.data.path, recipe.data.tokenizer) == ("2024", "1e3")
    assert (recipe.description, recipe.name) == ("a b", "true")


def test_a_new_budget_replaces_the_old_one():
    train = load("tiny", ["train.seconds=5"]).train
    assert (train.seconds, train.steps) == (5.0, 0)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.num_layer=3", "unknown key model.num_layer, did you mean 'num_layers'?"),
        ("modle.dim=3", "unknown key modle, did you mean 'model'?"),
        ("model.dim", "--set model.dim: write it as section.key=value"),
        ("name.first=x", "--set name.first=x: 'name' is not a section"),
        ("optim.beta1=2", "optim.beta1: Input should be less than 1"),
        ("model.num_heads=3", "dim 32 is not a multiple of num_heads 3"),
        ("model.num_kv_heads=3", "num_heads 2 is not a multiple of num_kv_heads 3"),
        ("model.num_heads=32", "must be even"),
        ("train.steps=0", "set exactly one of train.steps, train.tokens, train.seconds"),
        ("train.batch_tokens=500", "train.batch_tokens 500 is not a multiple of model.window 32"),
        ("score.stride=64", "score.stride is larger than model.window"),
        ("data.source=files", "source 'files' needs a path: --set data.path=FOLDER"),
    ],
)
def test_a_problem_is_named(override, sentence):
    with pytest.raises(BadInput) as caught:
        load("tiny", [override])
    assert sentence in str(caught.value)


def test_shards_need_their_tokenizer():
    with pytest.raises(BadInput, match=r"needs data\.tokenizer"):
        load("tiny", ["data.source=shards", "data.path=somewhere"])


def test_all_problems_are_reported_together():
    with pytest.raises(BadInput) as caught:
        load("tiny", ["model.dims=3", "optim.beta1=2", "trane.steps=1", "nonsense"])
    sentence = str(caught.value)
    assert "has 4 problem(s)" in sentence
    for part in ("model.dims", "optim.beta1", "trane", "--set nonsense"):
        assert part in sentence


def test_a_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(BadInput, match=r"no recipe 'nope'.*demo.*tiny"):
        load("nope")


def test_recipes_from_files(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(dumps(load("tiny")))
    assert load(str(path)) == load("tiny")
    path.write_text("name = ")
    with pytest.raises(BadInput, match="no valid TOML"):
        load(str(path))
    with pytest.raises(BadInput, match="no valid TOML"):
        loads("name = ")
    path.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="is no text in UTF-8"):
        load(str(path))


def test_the_starting_system_in_small_differs_in_size_alone():
    whole, small = load("pr264").model_dump(), load("pr264-small").model_dump()
    differing = {
        f"{section}.{key}"
        for section in whole
        if isinstance(whole[section], dict)
        for key, value in whole[section].items()
        if small[section][key] != value
    }
    sizes = {"num_layers", "dim", "num_heads", "num_kv_heads", "window"}
    text = {"source", "path", "tokenizer", "vocab_size", "train_bytes", "tokenizer_bytes"}
    assert differing == {
        *(f"model.{key}" for key in sizes),
        *(f"data.{key}" for key in text),
        "train.batch_tokens",
        "pack.budget_bytes",
        "adapt.sgd",  # its update block: 32 windows
    }
    for recipe in (whole, small):
        sgd = recipe["adapt"]["sgd"]
        assert sgd.pop("block_tokens") == 32 * recipe["model"]["window"]
        published = {"rows": 32, "epochs": 2, "lr": 2e-3, "momentum": 0.9, "clip": 1.0}
        assert sgd == published | {"cosine": False}
