"""Filling a byte budget: as full as it can be, never over it, and an end where nothing helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fairway import distributed
from fairway.coding import artifact
from fairway.config.schema import Model, Pack
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats.tensors import LARGEST_CODE, Quantized
from fairway.model.gpt import build
from fairway.quantize import allocate, gptq
from fairway.quantize.quantizers import QUANTIZERS, Quantizer
from fairway.train.calibrate import Collector, Curvature

DEFAULT_BYTES = 22_000
SHAPE = Model(
    num_layers=2, dim=32, num_heads=2, num_kv_heads=1, window=32, bigram_rows=64, bigram_dim=16
)


@dataclass
class Network:
    """A small network whose weights are all alive, with the curvature of random text."""

    tokenizer: Tokenizer
    weights: dict[str, np.ndarray]
    curvatures: dict[str, Curvature]

    def quantizer(self, pack: Pack) -> Quantizer:
        return QUANTIZERS[pack.quantizer](self.weights, gptq.factor(self.curvatures), pack)

    def fill(self, pack: Pack) -> tuple[Quantized, bytes, list[int]]:
        """What fill returns, and the bytes of its tries."""
        quantizer, tries = self.quantizer(pack), []
        assert quantizer.fills(pack)

        def note(number: int, size: int) -> None:
            tries.append(size)
            assert number == len(tries)

        quantized, data = allocate.fill(quantizer, pack.budget_bytes, 1000, self.write, note)
        return quantized, data, tries

    def write(self, quantized: Quantized) -> bytes:
        return artifact.write(SHAPE, self.tokenizer, quantized)


@pytest.fixture(scope="module")
def network() -> Network:
    text = " ".join(f"word{i % 37} and {i % 11} more of it" for i in range(400))
    tokenizer = train_tokenizer([text.encode()], 280)
    model = build(SHAPE, tokenizer.vocab_size, tokenizer.bos_id, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    collector = Collector(model)
    tokens = torch.randint(280, (8, 33), generator=random)
    collector.add(tokens[:, :-1], tokens[:, 1:])
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    return Network(tokenizer, weights, collector.curvatures(distributed.start()))


@pytest.mark.parametrize("percent", [50, 60, 70, 80, 95, 100, 110, 125, 140, 150])
def test_a_budget_is_filled(network: Network, percent: int) -> None:
    budget = DEFAULT_BYTES * percent // 100
    quantized, data, tries = network.fill(Pack(budget_bytes=budget))
    assert 0.995 * budget <= len(data) <= budget
    assert network.write(quantized) == data
    assert len(data) == max(size for size in tries if size <= budget)


@pytest.mark.parametrize("percent", [60, 100, 150])
def test_uniform_fills_a_budget_too(network: Network, percent: int) -> None:
    """Its exponents have no columns: all rows of one spread move at once, in jumps."""
    budget = DEFAULT_BYTES * percent // 100
    _, data, _ = network.fill(Pack(quantizer="uniform", budget_bytes=budget))
    assert 0.98 * budget <= len(data) <= budget


def test_finer_steps_make_larger_files_that_cost_less(network: Network) -> None:
    quantizer = network.quantizer(Pack())
    start = quantizer.guess(8 * DEFAULT_BYTES)
    found = [network.write(quantizer.at(start - octaves)) for octaves in (-2, 0, 2, 4)]
    sizes = [len(data) for data in found]
    assert sizes == sorted(sizes)
    costs = [
        sum(
            gptq.predicted_nats(network.weights[name], artifact.read(data).state[name].numpy(), c)
            for name, c in network.curvatures.items()
        )
        for data in found
    ]
    assert costs == sorted(costs, reverse=True)
    # Half a bit per octave of θ and weight, as the search takes it.
    weights = sum(m.codes.size for m in quantizer.at(start).matrices.values())
    assert quantizer.bytes_per_log_step() == pytest.approx(-weights / 16)
    assert (sizes[-2] - sizes[-1]) / 2 == pytest.approx(quantizer.bytes_per_log_step(), rel=0.1)


@pytest.mark.parametrize("quantizer", ["gptq", "uniform"])
def test_an_impossible_budget_gives_the_smallest_file_that_was_found(
    network: Network, quantizer: str
) -> None:
    quantized, data, tries = network.fill(Pack(quantizer=quantizer, budget_bytes=600))
    assert len(data) == min(tries) > 600
    zeros = sum(float((m.codes == 0).mean()) for m in quantized.matrices.values())
    assert zeros > 0.9 * len(quantized.matrices)


@pytest.mark.parametrize("quantizer", ["gptq", "uniform"])
def test_a_huge_budget_ends_at_the_finest_useful_steps(network: Network, quantizer: str) -> None:
    quantized, data, tries = network.fill(Pack(quantizer=quantizer, budget_bytes=10_000_000))
    assert len(data) < 100_000
    assert len(tries) <= 3
    largest = max(int(np.abs(m.codes).max()) for m in quantized.matrices.values())
    assert 6000 < largest <= LARGEST_CODE
    back = artifact.read(data)
    for name, weights in network.weights.items():
        spread = np.abs(weights).max()
        assert np.abs(back.state[name].numpy() - weights).max() <= 0.01 * spread


def test_rtn_and_a_given_step_fill_nothing(network: Network) -> None:
    for pack in (Pack(quantizer="rtn"), Pack(quantizer="uniform", step=0.5)):
        quantizer = network.quantizer(pack)
        assert not quantizer.fills(pack)
        assert network.write(quantizer.at(0.0)) == network.write(quantizer.at(-9.0))


@pytest.mark.parametrize("quantizer", ["gptq", "uniform", "rtn"])
@pytest.mark.parametrize("name", ["blocks.1.mlp.up", "blocks.0.attn.q_gain"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_weights_are_refused(
    network: Network, quantizer: str, name: str, bad: float
) -> None:
    weights = {n: w.copy() for n, w in network.weights.items()}
    weights[name].flat[1] = bad
    with pytest.raises(BadInput, match=f"{name} cannot be packed.*diverged"):
        Network(network.tokenizer, weights, network.curvatures).quantizer(
            Pack(quantizer=quantizer)
        ).at(-9.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_filling_with_diverged_weights_is_refused(network: Network, bad: float) -> None:
    weights = {n: w.copy() for n, w in network.weights.items()}
    weights["blocks.1.mlp.up"][0, 1] = bad
    with pytest.raises(BadInput, match=r"blocks\.1\.mlp\.up cannot be packed"):
        Network(network.tokenizer, weights, network.curvatures).fill(Pack(budget_bytes=20_000))
    with pytest.raises(BadInput, match=r"blocks\.1\.mlp\.up cannot be packed"):
        Network(network.tokenizer, weights, network.curvatures).fill(
            Pack(quantizer="uniform", budget_bytes=20_000)
        )
