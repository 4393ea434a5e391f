import pytest

from fairway.pack import artifact
from fairway.recipe import Pack
from fairway.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def artifact_file(lively_model, tmp_path_factory):
    """An artifact of a small network; the same for all tests of this folder. Do not change it."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "after", "some", "bird"]
    text = " ".join(words[i * i % 12] + words[i * 7 % 11] for i in range(2000))
    tokenizer = train_tokenizer([text.encode()], 300)
    file = tmp_path_factory.mktemp("artifact") / "model.fairway"
    file.write_bytes(
        artifact.write(lively_model.shape, tokenizer, lively_model.state_dict(), Pack())
    )
    return file
