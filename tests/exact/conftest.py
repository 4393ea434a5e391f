import pytest
import torch

from fairway.coding import artifact
from fairway.config.schema import Model, Pack
from fairway.exact.operands import prepare
from fairway.model.gpt import build
from fairway.pipeline.pack import pack_weights

BASE = {
    "num_layers": 2, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "window": 16,
    "bigram_rows": 64, "bigram_dim": 8,
}  # fmt: skip
SHAPES = {
    "base": {},
    "blind": {"document_aware": False},
    "plain": {"bigram_rows": 0, "smear": False, "num_layers": 1},
    "deep": {"num_layers": 5, "window": 8, "softcap": 15.0, "rope_base": 500.0},
    "switched": {
        "activation": "leaky2",
        "rotary_dims": 4,
        "layer_scale": True,
        "exclusive_layers": 1,
        "gate_channels": 6,
        "parallel_layers": 1,
        "num_layers": 3,
        "repeat_first": 0,
        "repeat_last": 1,
        "repeat_times": 1,
    },
    "wide": {"dim": 48, "num_heads": 2, "num_kv_heads": 1, "mlp_mult": 2.0, "bigram_rows": 1},
}


@pytest.fixture(scope="session")
def make_artifact(tokenizer):
    """(change of the shape, Pack) → an artifact of lively random weights."""

    def make(change=None, pack=None, factor=1.0):
        shape = Model.model_validate(BASE | (change or {}))
        model = build(shape, tokenizer.vocab_size, tokenizer.bos_id, seed=3)
        random = torch.Generator().manual_seed(4)
        weights = {}
        for name, p in model.state_dict().items():
            noise = torch.randn(p.shape, generator=random) * (0.1 if p.ndim else 0.01)
            weights[name] = ((p + noise) * factor).numpy()
        pack = pack or Pack(quantizer="uniform", step=0.1)
        return artifact.read(pack_weights(shape, tokenizer, weights, {}, pack).data)

    return make


@pytest.fixture(scope="session", params=SHAPES)
def opened(request, make_artifact):
    return make_artifact(SHAPES[request.param])


@pytest.fixture(scope="session")
def operands(opened):
    return prepare(opened)


@pytest.fixture(scope="session")
def draw():
    """(random, lanes, steps, vocab_size) → tokens with documents of all lengths."""

    def tokens(random, lanes, steps, vocab_size):
        found = random.integers(1, vocab_size, (lanes, steps))
        found[random.random(found.shape) < random.choice([0, 0.05, 0.4])] = 0
        return found

    return tokens
