"""The recipe of an experiment as frozen, typed data.

A recipe holds what changes the mathematics, and in [run] what does not: limits and intervals.
Device, ranks, thread counts and paths of runs are options of commands. toml.py reads and writes
recipes.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Arithmetic = Literal["exact", "float"]
"""exact: the same bits on every machine; float: what the machine's library computes."""


Stage = tuple[float, int]
"""(until, value): what holds while progress is below `until`."""


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def what_counts(self) -> dict[str, Any]:
        """Return the values that results depend on, as JSON."""
        return self.model_dump(mode="json")


class Data(Section):
    """Which documents, which split, which tokenizer."""

    source: Literal["stdlib", "stdlib-code", "files", "shards"] = "stdlib"
    path: str = ""  # files: a file or folder; shards: the folder with *_train_*.bin and *_val_*.bin
    tokenizer: str = ""  # shards: the SentencePiece model that made them; empty: train our own
    text_field: str = "text"  # of .jsonl documents
    # Shell patterns with commas between: files that match, or a folder of theirs, are validation.
    val_pattern: str = "val,val[._-]*,validation,validation[._-]*"
    val_fraction: float = Field(0.05, gt=0, lt=0.5)  # without such files: by a hash per document
    train_bytes: int = Field(0, ge=0)  # use only the first bytes of train text, this many; 0: all
    vocab_size: int = Field(1024, ge=258, le=65535)
    tokenizer_bytes: int = Field(20_000_000, ge=10_000)  # of train text, to train the tokenizer
    cased: bool = False  # our own tokenizer's words are in lower case behind marks (CaseOps)
    overlap: float = Field(0.2, gt=0, le=1)  # drop train documents that share more with val
    # Above 0, the end of the train text of at most so many bytes is the validation text, in place
    # of the validation documents: for experiments that must not look at those.
    held_out_bytes: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _paths(self) -> Self:
        if self.source in ("files", "shards") and not self.path:
            raise ValueError(f"source '{self.source}' needs a path: --set data.path=FOLDER")
        if self.source == "shards" and not self.tokenizer:
            raise ValueError("source 'shards' needs data.tokenizer, a SentencePiece .model file")
        if self.cased and self.source == "shards":
            raise ValueError("data.cased is for a tokenizer of our own: shards have theirs already")
        if self.cased and self.vocab_size < 260:
            raise ValueError("data.cased needs a data.vocab_size of at least 260")
        return self


class Model(Section):
    """Shape of the network of pull request 264 and its descendants. All widths in elements."""

    num_layers: int = Field(4, ge=1, le=128)
    dim: int = Field(128, ge=8, le=8192)
    num_heads: int = Field(4, ge=1, le=128)
    num_kv_heads: int = Field(2, ge=1, le=128)
    mlp_mult: float = Field(3.0, gt=0, le=16)
    window: int = Field(256, ge=8, le=65536)  # tokens of context; rows in training are as long
    rope_base: float = Field(10000.0, gt=1)
    qk_gain: float = Field(1.5, gt=0)
    softcap: float = Field(30.0, gt=0, le=40)  # its double's exponential fits in float32
    bigram_rows: int = Field(2048, ge=0, le=1 << 24)  # 0: no bigram table
    bigram_dim: int = Field(64, ge=1, le=8192)
    smear: bool = True
    embed_std: float = Field(0.005, gt=0)
    output_init: Literal["zero", "scaled"] = "zero"  # scaled: orthogonal / sqrt(2 · layers)
    document_aware: bool = True  # attention, smear and bigrams stop at document boundaries
    # Switches (docs/techniques.md); as they stand here, each is off.
    activation: Literal["relu2", "leaky2"] = "relu2"  # leaky2: max(z, z/2)²
    rotary_dims: int = Field(0, ge=0)  # of a head's, that turn with the position; 0: all
    layer_scale: bool = False  # inputs of attention and MLP over √(layer + 1)
    exclusive_layers: int = Field(0, ge=0)  # last layers without the share of a token's own value
    gate_channels: int = Field(0, ge=0)  # of the input, that gate each head's output; 0: no gate
    parallel_layers: int = Field(0, ge=0)  # last layers whose MLP does not wait for attention
    repeat_first: int = Field(0, ge=0)  # these layers, first to last,
    repeat_last: int = Field(0, ge=0)
    repeat_times: int = Field(0, ge=0, le=16)  # are passed this many times more

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def mlp_hidden(self) -> int:
        return int(self.mlp_mult * self.dim)

    @property
    def passes(self) -> tuple[int, ...]:
        """Which layer each pass goes through, repetitions included."""
        layers = list(range(self.num_layers))
        if self.repeat_times:
            after = self.repeat_last + 1
            layers[after:after] = layers[self.repeat_first : after] * self.repeat_times
        return tuple(layers)

    def is_among_last(self, layer: int, count: int) -> bool:
        """Whether `layer` is one of the last `count` layers."""
        return layer >= self.num_layers - count

    @model_validator(mode="after")
    def _switches(self) -> Self:
        if self.rotary_dims % 2 or self.rotary_dims > self.head_dim:
            raise ValueError(
                f"rotary_dims {self.rotary_dims} must be even and at most the head width"
            )
        if self.gate_channels > self.dim:
            raise ValueError(f"gate_channels are at most dim {self.dim}")
        if self.repeat_times and not self.repeat_first <= self.repeat_last < self.num_layers:
            raise ValueError("repeat_first and repeat_last are no range of layers")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if not self.mlp_hidden:
            raise ValueError(f"mlp_mult {self.mlp_mult} of dim {self.dim} leaves the MLP no width")
        if self.head_dim % 2:
            raise ValueError(f"the head width dim/num_heads = {self.head_dim} must be even")
        return self


class Optim(Section):
    """Muon for matrices, AdamW for embeddings and for vectors and scalars."""

    matrix_lr: float = Field(0.02, gt=0)
    embed_lr: float = Field(0.03, gt=0)
    scalar_lr: float = Field(0.02, gt=0)
    weight_decay: float = Field(0.04, ge=0)
    decay_gains: bool = False  # true: vectors and scalars decay too, as in the original
    momentum: float = Field(0.99, ge=0, lt=1)
    momentum_start: float = Field(0.92, ge=0, lt=1)
    momentum_warmup: float = Field(0.29, ge=0, le=1)  # progress at which momentum is reached
    newton_schulz_steps: int = Field(5, ge=1, le=20)
    polynomials: Literal["muon", "polar"] = "muon"  # of the iteration; polar: Polar Express
    equal_rows: bool = False  # each row of the update has length 1 before the iteration: MuonEq-R
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    grad_clip: float = Field(0.3, ge=0)  # of the global norm; 0: no clipping
    warmup: float = Field(0.0, ge=0, lt=1)  # progress during which the rates rise from 0
    warmdown: float = Field(0.58, ge=0, le=1)  # last share of progress, over which rates fall
    lr_floor: float = Field(0.0, ge=0, lt=1)  # share of the peak that is left at the end


class Train(Section):
    """Batches, budget and averaging. Exactly one of steps, tokens and seconds is the budget."""

    batch_tokens: int = Field(4096, ge=8)
    windows: tuple[Stage, ...] = ()  # rows of fewer tokens at first: [[until, tokens], ...]
    repeat_from: float = Field(0.0, ge=0, lt=1)  # progress at which layers begin to be repeated
    steps: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)
    seed: int = Field(1337, ge=0, lt=1 << 63)
    order: Literal["shuffled", "sequential"] = "shuffled"
    average: Literal["none", "ema", "swa"] = "ema"
    ema_decay: float = Field(0.997, ge=0, lt=1)
    swa_every: int = Field(50, ge=1)  # steps between snapshots while the rate is under half
    compile: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of products; auto: what is faster
    calibration_tokens: int = Field(32768, ge=0)  # of the text that training ends on, for packing
    reserve_s: float = Field(8.0, ge=0)  # for it, of a budget in seconds; at most a tenth of it

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [k for k in ("steps", "tokens", "seconds") if getattr(self, k)]
        if len(given) != 1:
            raise ValueError(
                "set exactly one of train.steps, train.tokens, train.seconds "
                f"(set: {', '.join(given) or 'none'})"
            )
        ends = [end for end, _ in self.windows]
        if ends != sorted(ends) or not all(0 < end <= 1 for end in ends):
            raise ValueError("train.windows must end at rising shares of progress in (0, 1]")
        return self

    @property
    def stepping_s(self) -> float:
        """Of a budget in seconds: how long steps are taken; calibration has the rest."""
        return self.seconds - min(self.reserve_s, self.seconds / 10)


class Memory(Section):
    """The document memory: what predictions take from a document besides the network."""

    ngram: int = Field(0, ge=0, le=4)  # longest n-gram of the document that is looked up; 0: none
    neural_cache: int = Field(0, ge=0, le=4096)  # last states of the document to compare with

    @property
    def is_on(self) -> bool:
        return bool(self.ngram or self.neural_cache)


NO_MEMORY = Memory()


class Pack(Section):
    """How weights become codes, and the byte budget of the artifact.

    gptq and uniform choose the steps that fill the budget, unless `step` fixes those of uniform.
    rtn has the bits and the row scales below instead, and whatever size comes of it.
    """

    quantizer: Literal["gptq", "uniform", "rtn"] = "gptq"
    budget_bytes: int = Field(16_000_000, gt=0)
    step: float = Field(0.0, ge=0, le=10)  # uniform: in standard deviations; 0: fill the budget
    row_scale: Literal["std", "max"] = "std"  # rtn: a row's largest code: 4 std, or its maximum
    mlp_bits: int = Field(5, ge=2, le=8)
    attention_bits: int = Field(6, ge=2, le=8)
    bigram_bits: int = Field(6, ge=2, le=8)
    embed_bits: int = Field(8, ge=2, le=8)

    @model_validator(mode="after")
    def _step(self) -> Self:
        if self.step and self.quantizer != "uniform":
            raise ValueError(f"pack.step belongs to the quantizer 'uniform', not {self.quantizer}")
        return self


class Score(Section):
    protocol: Literal["plain", "sliding", "rolling"] = "rolling"
    stride: int = Field(64, ge=1)
    arithmetic: Arithmetic = "exact"


class Run(Section):
    """Limits and intervals. Nothing here changes a result, so nothing here makes one stale."""

    train_limit_s: float = Field(600.0, gt=0)  # training that takes longer is reported as too slow
    checkpoint_every_s: float = Field(30.0, gt=0)  # of training
    validate_every: int = Field(0, ge=0)  # steps of training; 0: only at the end
    validate_tokens: int = Field(65536, ge=256)
    score_limit_s: float = Field(0.0, ge=0)  # stop, and say how far the score came; 0: never


class Prove(Section):
    arithmetic: Arithmetic = "exact"
    lanes: int = Field(128, ge=1, le=65536)  # the most; fewer where the text is short


class Sgd(Section):
    """The whole network by SGD, as the starting system did it, but after scoring."""

    block_tokens: int = Field(8, ge=1, le=1 << 20)  # tokens of a lane between two updates
    rows: int = Field(
        32, ge=1, le=65536
    )  # a block longer than a window is learned this many rows at a time
    epochs: int = Field(1, ge=1, le=100)
    lr: float = Field(0.03, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    clip: float = Field(0.0, ge=0)  # of the global norm; 0: no clipping
    cosine: bool = False  # the rate falls to 0 with the end of the text


class Dynamic(Section):
    """Dynamic evaluation: RMS-normalised updates, and decay back to the artifact's weights."""

    block_tokens: int = Field(16, ge=1, le=1 << 20)
    lr: float = Field(1e-3, gt=0)
    beta: float = Field(0.9999, ge=0, lt=1)  # of the mean square of a weight's gradients
    eps: float = Field(1e-4, gt=0)  # added to its root
    decay: float = Field(1e-2, ge=0, lt=1)  # share of the way back, per update


class Lora(Section):
    """Low-rank adapters for every lane alone, anew for every document."""

    block_tokens: int = Field(16, ge=1, le=1 << 20)
    rank: int = Field(64, ge=1, le=1024)
    lr: float = Field(2e-3, gt=0)
    beta: float = Field(0.9999, ge=0, lt=1)
    eps: float = Field(1e-4, gt=0)
    decay: float = Field(3e-3, ge=0, lt=1)
    reset: bool = True  # at the start of a document


class Adapt(Section):
    """Score first, then learn: how the network goes on training on text that has been coded."""

    method: Literal["none", "sgd", "dynamic", "lora"] = "none"
    order: Literal["left-to-right", "lanes"] = "left-to-right"
    lanes: int = Field(16, ge=1, le=65536)  # the most that learn side by side
    sgd: Sgd = Sgd()
    dynamic: Dynamic = Dynamic()
    lora: Lora = Lora()

    def what_counts(self) -> dict[str, Any]:
        """Return the method and its own settings; those of other methods change nothing."""
        tree = self.model_dump(mode="json")
        return {
            key: value
            for key, value in tree.items()
            if key in ("method", self.method)
            or (self.method != "none" and not isinstance(value, dict))
        }

    @property
    def settings(self) -> Sgd | Dynamic | Lora:
        """Return those of the method. Raises AttributeError for `none`."""
        settings: Sgd | Dynamic | Lora = getattr(self, self.method)
        return settings


class Recipe(Section):
    name: str = Field(min_length=1)
    description: str = ""
    data: Data = Data()
    model: Model = Model()
    optim: Optim = Optim()
    train: Train
    pack: Pack = Pack()
    memory: Memory = Memory()
    adapt: Adapt = Adapt()
    score: Score = Score()
    prove: Prove = Prove()
    run: Run = Run()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.train.batch_tokens % self.model.window:
            raise ValueError(
                f"train.batch_tokens {self.train.batch_tokens} is not a multiple of "
                f"model.window {self.model.window}"
            )
        for _, tokens in self.train.windows:
            if tokens < 8 or self.model.window % tokens:
                raise ValueError(
                    f"train.windows: {tokens} tokens do not divide model.window {self.model.window}"
                )
        if self.score.stride > self.model.window:
            raise ValueError("score.stride is larger than model.window")
        return self
