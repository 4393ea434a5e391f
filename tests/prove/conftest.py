import pytest

from fairway.pack.pack import pack_weights
from fairway.recipe import Pack
from fairway.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def artifact_file(lively_model, tmp_path_factory):
    """An artifact of a small network; the same for all tests of this folder. Do not change it."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "after", "some", "bird"]
    text = " ".join(words[i * i % 12] + words[i * 7 % 11] for i in range(2000))
    tokenizer = train_tokenizer([text.encode()], 300)
    file = tmp_path_factory.mktemp("artifact") / "model.fairway"
    weights = {name: t.numpy() for name, t in lively_model.state_dict().items()}
    recipe = Pack(quantizer="uniform", step=0.1)
    file.write_bytes(pack_weights(lively_model.shape, tokenizer, weights, {}, recipe).data)
    return file
