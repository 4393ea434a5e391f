# ruff: noqa: E501 -- lines of code that is put into a copy
"""What a change costs: a toy of each kind is added to a copy of src/, and one run uses them all.

TOYS says which files each touches; docs/architecture.md has the same numbers.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Toy(NamedTuple):
    """New files with their text, and replacements in files that are there."""

    new: dict[str, str]
    edits: dict[str, list[tuple[str, str]]]


COUNT = """
from fairway.pipeline.directory import Job
from fairway.pipeline.results import PrepareResult, Result


class CountResult(Result):
    stage = "count"
    documents: int

    @property
    def sentence(self) -> str:
        return f"{self.documents} documents"


def count(job: Job) -> CountResult:
    data = job.run.require(PrepareResult)
    return CountResult(documents=data.train_documents + data.val_documents)
"""
SIGNS = """
import torch

from fairway.coding.online.rule import WholeNetwork


class SignRule(WholeNetwork):
    code, layout = 9, "<If"

    def __init__(self, network, settings):
        super().__init__(network)
        self.lr = settings.lr

    @torch.no_grad()
    def step(self, progress):
        self._weights.sub_(self._gradients.sign(), alpha=self.lr)
        self._gradients.zero_()

    def tensors(self):
        return {"weights": self._weights}
"""
LETTERS = """
def documents():
    return [f"Letter {i}. Dear reader, {'all is well. ' * (i % 9)}Yours.\\n".encode() for i in range(900)]


def listing():
    return [("letters", "900")]
"""

TOYS = {
    "a stage": Toy(
        {"pipeline/count.py": COUNT},
        {
            "pipeline/stage.py": [
                ("\nSTAGES: ", "\nfrom fairway.pipeline.count import CountResult, count\n\nSTAGES: "),
                ("    Stage(_verify", "    Stage(count, CountResult, (), (PrepareResult,), 1),\n    Stage(_verify"),
            ]
        },
    ),
    "a kind of parameter": Toy(
        {},
        {
            "model/parameters.py": [
                ('    "mix": _vector', '    "hidden_bias": _vector(MLP, lambda m, v: (m.mlp_hidden,), _ones),\n    "mix": _vector')
            ],
            "model/mlp.py": [
                ("        self.down = ", "        self.hidden_bias = nn.Parameter(torch.empty(shape.mlp_hidden))\n        self.down = "),
                ("linear(x, self.up)), self.down)", "linear(x, self.up) + self.hidden_bias), self.down)"),
            ],
        },
    ),
    "a way of learning": Toy(
        {"coding/online/signs.py": SIGNS},
        {
            "coding/online/__init__.py": [
                ("\nRULES", "\nfrom fairway.coding.online.signs import SignRule\n\nRULES"),
                ('"lora": LoraRule}', '"lora": LoraRule, "signs": SignRule}'),
            ],
            "config/schema.py": [
                ('"dynamic", "lora"]', '"dynamic", "lora", "signs"]'),
                ("    lora: Lora = Lora()\n", "    lora: Lora = Lora()\n    signs: Signs = Signs()\n"),
                ("class Adapt(Section)", "class Signs(Section):\n    block_tokens: int = 16\n    lr: float = 1e-4\n\n\nclass Adapt(Section)"),
            ],
        },
    ),
    "a quantizer": Toy(
        {},
        {
            "quantize/quantizers.py": [
                ('"rtn": Rtn}', '"rtn": Rtn, "plain": Plain}'),
                ("QUANTIZERS: ", "class Plain(Uniform):\n    row_bits = 2.0\n\n\nQUANTIZERS: "),
            ],
            "config/schema.py": [('"uniform", "rtn"] = "gptq"', '"uniform", "rtn", "plain"] = "gptq"')],
        },
    ),
    "a corpus": Toy(
        {"data/letters.py": LETTERS},
        {
            "data/corpus.py": [
                ("\nSHIPPED", "\nfrom fairway.data import letters\n\nSHIPPED"),
                ("stdlib.listing),\n}", 'stdlib.listing),\n    "letters": Shipped(letters.documents, letters.listing),\n}'),
            ],
            "config/schema.py": [('"files", "shards"] = "stdlib"', '"files", "shards", "letters"] = "stdlib"')],
        },
    ),
    "a protocol": Toy(
        {},
        {
            "coding/protocols.py": [
                ('    if how.stride > window', '    if how.protocol == "halves":\n        return plain(tokens, window // 2)\n    if how.stride > window')
            ],
            "config/schema.py": [('"sliding", "rolling"] = "rolling"', '"sliding", "rolling", "halves"] = "rolling"')],
        },
    ),
}  # fmt: skip

RUN = """
run tiny --out runs/toy --adapt signs --set data.source=letters --set data.vocab_size=300
--set train.steps=4 --set train.batch_tokens=512 --set pack.quantizer=plain
--set score.protocol=halves --set score.arithmetic=float --set memory.ngram=0
--set memory.neural_cache=0 --set run.validate_tokens=256
"""


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """The directory of a run that uses every toy, by a copy of src/."""
    root = tmp_path_factory.mktemp("extending")
    package = root / "src" / "fairway"
    shutil.copytree(ROOT / "src" / "fairway", package, ignore=shutil.ignore_patterns("__pycache__"))
    for toy in TOYS.values():
        for name, text in toy.new.items():
            assert not (package / name).exists()
            (package / name).write_text(text)
        for name, edits in toy.edits.items():
            text = (package / name).read_text("utf-8")
            for before, after in edits:
                assert text.count(before) == 1, f"{name}: {before}"
                text = text.replace(before, after)
            (package / name).write_text(text)
    code = f"import sys; sys.path.insert(0, {str(root / 'src')!r})\nfrom fairway.cli.main import main\nmain()"
    command = [sys.executable, "-P", "-c", code, *RUN.split()]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "runs" / "toy"


def said(run, name):
    return json.loads((run / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_run_uses_a_toy_of_every_kind(toy_run):
    prepared = said(toy_run, "prepare")
    assert (
        said(toy_run, "count")["documents"]
        == prepared["train_documents"] + prepared["val_documents"]
    )
    assert said(toy_run, "train")["parameters"] > 0
    assert any("hidden_bias" in line for line in weights(toy_run))
    assert said(toy_run, "pack")["quantizer"] == "plain"
    assert (said(toy_run, "score")["protocol"], said(toy_run, "score")["adaptation"]) == (
        "halves",
        "signs",
    )
    assert said(toy_run, "verify")["verified"]
    assert said(toy_run, "verify")["decoded"]["adaptation"] == "signs"


def weights(run):
    from safetensors import safe_open

    with safe_open(run / "weights.safetensors", "pt") as file:
        return list(file.keys())


def test_the_page_has_the_numbers_of_the_toys():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name, toy in TOYS.items():
        (files,) = re.findall(rf"^\| {name} \| ([^|]+) \|", page, re.M)
        assert files == f"{len(toy.edits)}" + (" + new" if toy.new else "")
