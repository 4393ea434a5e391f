"""The recipe of an experiment as frozen, typed data.

A recipe holds what changes the mathematics, and in [run] what does not: limits and intervals.
Device, ranks, thread counts and paths of runs are options of commands. The string under a key says
what it means; docs/recipes.md is made of these strings (docs/generate.py).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fairway.config.sizes import Bytes

Arithmetic = Literal["exact", "float"]
Method = Literal["none", "sgd", "dynamic", "lora"]
Phase = tuple[float, int]  # (until, value): what holds while progress is below `until`


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def what_counts(self) -> dict[str, Any]:
        """Return the values that results depend on, as JSON."""
        return self.model_dump(mode="json")


class Data(Section):
    """Which documents, which split, which tokenizer."""

    source: Literal["stdlib", "stdlib-code", "files", "shards"] = "stdlib"
    """Documents: Python's own documentation or source, your files, or the challenge's shards."""
    path: str = ""
    """`files`: a file or folder; `shards`: the folder of `*_train_*.bin` and `*_val_*.bin`."""
    tokenizer: str = ""
    """`shards`: the SentencePiece model that made them; empty: train a tokenizer of our own."""
    text_field: str = "text"
    """The field of a .jsonl document that holds its text."""
    val_pattern: str = "val,val[._-]*,validation,validation[._-]*"
    """Shell patterns with commas between: matching files and folders are the validation split."""
    val_fraction: float = Field(0.05, gt=0, lt=0.5)
    """Without such files: share of documents for validation, chosen by a hash of each one."""
    train_bytes: Bytes = Field(0, ge=0)
    """Use only this many first bytes of the training text; 0: all."""
    vocab_size: int = Field(1024, ge=258, le=65535)
    """Number of tokens in the vocabulary."""
    tokenizer_bytes: Bytes = Field(20_000_000, ge=10_000)
    """Bytes of the training text that the tokenizer is trained on."""
    cased: bool = False
    """Our own tokenizer writes words in lower case behind marks for capitals (CaseOps)."""
    overlap: float = Field(0.2, gt=0, le=1)
    """Drop a training document that shares more than this of its fingerprints with validation."""
    held_out_bytes: Bytes = Field(0, ge=0)
    """At most this much of the end of the training text replaces the validation text; 0: none."""

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
    """Number of layers."""
    dim: int = Field(128, ge=8, le=8192)
    """Width of the residual stream."""
    num_heads: int = Field(4, ge=1, le=128)
    """Attention heads per layer; must divide `dim`."""
    num_kv_heads: int = Field(2, ge=1, le=128)
    """Heads with keys and values of their own (grouped queries); must divide `num_heads`."""
    mlp_mult: float = Field(3.0, gt=0, le=16)
    """Width of the MLP's hidden layer, in multiples of `dim`."""
    window: int = Field(256, ge=8, le=65536)
    """Tokens that attention can reach, and of a training row; exact arithmetic: at most 32,768."""
    rope_base: float = Field(10000.0, gt=1)
    """Base of the rotary position frequencies."""
    qk_gain: float = Field(1.5, gt=0)
    """Initial value of the learned gain of queries."""
    softcap: float = Field(30.0, gt=0, le=40)
    """Logits are capped smoothly: softcap · tanh(logit / softcap)."""
    bigram_rows: int = Field(2048, ge=0, le=1 << 24)
    """Rows of the hashed table of token pairs; 0: no table."""
    bigram_dim: int = Field(64, ge=1, le=8192)
    """Width of that table's rows."""
    smear: bool = True
    """Mix each embedding with the one before it, by a learned gate (SmearGate)."""
    embed_std: float = Field(0.005, gt=0)
    """Standard deviation of the initial embeddings."""
    output_init: Literal["zero", "scaled"] = "zero"
    """Initial output projections: zero, or orthogonal / √(2 · layers)."""
    document_aware: bool = True
    """Attention, smear and bigrams stop at the start of a document."""
    # Switches (docs/techniques.md); each default is off.
    activation: Literal["relu2", "leaky2"] = "relu2"
    """Activation of the MLP: relu(z)², or leaky2, max(z, z/2)²."""
    rotary_dims: int = Field(0, ge=0)
    """Dimensions of a head that turn with the position, an even number; 0: all."""
    layer_scale: bool = False
    """Divide the inputs of attention and MLP by √(layer + 1)."""
    exclusive_layers: int = Field(0, ge=0)
    """Last layers whose attention output loses the direction of the token's own value (XSA)."""
    gate_channels: int = Field(0, ge=0)
    """Input channels that gate the output of each head; 0: no gate."""
    parallel_layers: int = Field(0, ge=0)
    """Last layers whose MLP reads what attention reads, side by side with it."""
    repeat_first: int = Field(0, ge=0)
    """First layer of those that are passed again."""
    repeat_last: int = Field(0, ge=0)
    """Last layer of those that are passed again."""
    repeat_times: int = Field(0, ge=0, le=16)
    """How many more times these layers are passed; 0: no repetition."""

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
        """Return whether `layer` is one of the last `count` layers."""
        return layer >= self.num_layers - count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rotary_dims % 2 or self.rotary_dims > self.head_dim:
            raise ValueError(f"rotary_dims {self.rotary_dims} must be even, at most the head width")
        if self.gate_channels > self.dim:
            raise ValueError(f"gate_channels are at most dim {self.dim}")
        if self.repeat_times and not self.repeat_first <= self.repeat_last < self.num_layers:
            raise ValueError("repeat_first and repeat_last are no range of layers")
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
    """Peak learning rate of matrices (Muon)."""
    embed_lr: float = Field(0.03, gt=0)
    """Peak learning rate of embeddings (AdamW)."""
    scalar_lr: float = Field(0.02, gt=0)
    """Peak learning rate of vectors and scalars (AdamW)."""
    weight_decay: float = Field(0.04, ge=0)
    """Decoupled weight decay of matrices and embeddings, times the learning rate."""
    decay_gains: bool = False
    """Weight decay for vectors and scalars too, as in pull request 264."""
    momentum: float = Field(0.99, ge=0, lt=1)
    """Momentum of Muon after its warm-up."""
    momentum_start: float = Field(0.92, ge=0, lt=1)
    """Momentum of Muon at the first step."""
    momentum_warmup: float = Field(0.29, ge=0, le=1)
    """Progress at which the momentum is reached."""
    newton_schulz_steps: int = Field(5, ge=1, le=20)
    """Iterations that orthogonalise an update."""
    polynomials: Literal["muon", "polar"] = "muon"
    """Polynomials of that iteration: Muon's own, or Polar Express."""
    equal_rows: bool = False
    """Scale each row of an update to length 1 before the iteration (MuonEq-R)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean gradient."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the mean squared gradient."""
    adam_eps: float = Field(1e-8, gt=0)
    """AdamW's ε."""
    grad_clip: float = Field(0.3, ge=0)
    """Largest global norm of the gradient; 0: no clipping."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Progress during which learning rates rise from 0."""
    warmdown: float = Field(0.58, ge=0, le=1)
    """Last share of progress, over which learning rates fall."""
    warmdown_shape: Literal["linear", "sqrt"] = "linear"
    """How rates fall, t being the share of the fall that is over: as 1 - t, or as 1 - √t."""
    lr_floor: float = Field(0.0, ge=0, lt=1)
    """Share of the peak learning rates that is left at the end."""


class Train(Section):
    """Batches, budget and averaging. Exactly one of steps, tokens and seconds is the budget."""

    batch_tokens: int = Field(4096, ge=8)
    """Tokens of a global batch, a multiple of `model.window`."""
    windows: tuple[Phase, ...] = ()
    """[[until, tokens], ...]: up to this progress rows are so long; a divisor of `model.window`."""
    sampled_tokens: int = Field(0, ge=0)
    """Tokens of the vocabulary that a step's softmax is estimated from; 0: all."""
    sampled_until: float = Field(0.7, gt=0, le=1)
    """Progress until which the softmax is estimated (`train.sampled_tokens`)."""
    repeat_from: float = Field(0.0, ge=0, lt=1)
    """Progress at which layers begin to be repeated (`model.repeat_times`)."""
    steps: int = Field(0, ge=0)
    """Budget in steps; 0: another budget."""
    tokens: int = Field(0, ge=0)
    """Budget in tokens; 0: another budget."""
    seconds: float = Field(0.0, ge=0)
    """Budget in seconds of the training clock; 0: another budget."""
    seed: int = Field(1337, ge=0, lt=1 << 63)
    """Seed of the initial weights and of the order of batches."""
    order: Literal["shuffled", "sequential"] = "shuffled"
    """Windows in a random order per epoch, or in the order of the shards."""
    average: Literal["none", "ema", "swa"] = "ema"
    """Which average of the weights is packed: none, exponential (EMA), or of snapshots (SWA)."""
    ema_decay: float = Field(0.997, ge=0, lt=1)
    """Decay per step of the EMA."""
    swa_every: int = Field(50, ge=1)
    """Steps between snapshots of SWA, while the learning rate is under half its peak."""
    compile: bool = False
    """Compile the training step (torch.compile)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations and matrix products; auto: bfloat16 where it is faster, else float32."""
    calibration_tokens: int = Field(32768, ge=0)
    """Tokens, after those of training, whose statistics `pack` uses; 0: no calibration."""
    reserve_s: float = Field(8.0, ge=0)
    """Seconds kept for calibration from a budget in seconds; at most a tenth of it."""

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

    ngram: int = Field(0, ge=0, le=4)
    """Longest n-gram of the document that the match model looks up; 0: no match model."""
    neural_cache: int = Field(0, ge=0, le=4096)
    """Last states of the document that the neural cache compares with; 0: no neural cache."""

    @property
    def is_on(self) -> bool:
        return bool(self.ngram or self.neural_cache)


NO_MEMORY = Memory()


class Pack(Section):
    """How weights become codes, and the byte budget of the artifact."""

    quantizer: Literal["gptq", "uniform", "rtn"] = "gptq"
    """How weights are rounded: gptq (needs calibration), uniform, or rtn (fixed bits)."""
    budget_bytes: Bytes = Field(16_000_000, gt=0)
    """Largest size of the artifact, in bytes."""
    step: float = Field(0.0, ge=0, le=10)
    """`uniform`: step in standard deviations of a row; 0: the step that fills the budget."""
    row_scale: Literal["std", "max"] = "std"
    """`rtn`: a row's largest code stands for 4 standard deviations, or for its largest weight."""
    mlp_bits: int = Field(5, ge=2, le=8)
    """`rtn`: bits of a code of the MLP's matrices."""
    attention_bits: int = Field(6, ge=2, le=8)
    """`rtn`: bits of a code of attention's matrices."""
    bigram_bits: int = Field(6, ge=2, le=8)
    """`rtn`: bits of a code of the bigram tables."""
    embed_bits: int = Field(8, ge=2, le=8)
    """`rtn`: bits of a code of the embedding."""

    @model_validator(mode="after")
    def _step(self) -> Self:
        if self.step and self.quantizer != "uniform":
            raise ValueError(f"pack.step belongs to the quantizer 'uniform', not {self.quantizer}")
        return self


class Score(Section):
    """How much context a token gets, and how probabilities are computed."""

    protocol: Literal["plain", "sliding", "rolling"] = "rolling"
    """How much context a token gets (docs/score.md)."""
    stride: int = Field(64, ge=1)
    """`sliding`: tokens by which the window moves."""
    arithmetic: Arithmetic = "exact"
    """Exact: the same bits on every machine; float: what the machine's library computes."""


class Run(Section):
    """Limits and intervals. Nothing here changes a result, so nothing here makes one stale."""

    train_limit_s: float = Field(600.0, ge=0)
    """Most seconds of training: a run that takes longer ends with exit code 1; 0: no limit."""
    checkpoint_every_s: float = Field(30.0, gt=0)
    """Seconds of training between checkpoints."""
    validate_every: int = Field(0, ge=0)
    """Steps of training between validations; 0: only at the end."""
    validate_tokens: int = Field(65536, ge=256)
    """Tokens of each validation during training."""
    score_limit_s: float = Field(0.0, ge=0)
    """Stop a score after this many seconds and say how far it came; 0: never."""


class Prove(Section):
    """How a text is coded."""

    arithmetic: Arithmetic = "exact"
    """Exact: every machine decodes the proof; float: only the kind of machine that wrote it."""
    lanes: int = Field(128, ge=1, le=65536)
    """Most lanes of a chunk; a short text has fewer."""


class Sgd(Section):
    """The whole network by SGD, as the starting system did it, but after scoring."""

    block_tokens: int = Field(8, ge=1, le=1 << 20)
    """Length of an update block: tokens of a lane between two updates."""
    rows: int = Field(32, ge=1, le=65536)
    """A block longer than a window is learned this many rows, each a window long, at a time."""
    epochs: int = Field(1, ge=1, le=100)
    """Passes over each block."""
    lr: float = Field(0.03, gt=0)
    """Learning rate."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum."""
    clip: float = Field(0.0, ge=0)
    """Largest global norm of the gradient; 0: no clipping."""
    cosine: bool = False
    """Let the learning rate fall to 0 at the end of the text."""


class Dynamic(Section):
    """Dynamic evaluation: RMS-normalised updates, and decay back to the artifact's weights."""

    block_tokens: int = Field(16, ge=1, le=1 << 20)
    """Length of an update block: tokens of a lane between two updates."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate η."""
    beta: float = Field(0.9999, ge=0, lt=1)
    """Decay β of the mean squared gradient of a weight."""
    eps: float = Field(1e-4, gt=0)
    """ε, added to its root."""
    decay: float = Field(1e-2, ge=0, lt=1)
    """Share δ of the way back to the artifact's weights, per update."""


class Lora(Section):
    """Low-rank adapters for every lane alone; B restarts with every document."""

    block_tokens: int = Field(16, ge=1, le=1 << 20)
    """Length of an update block: tokens of a lane between two updates."""
    rank: int = Field(64, ge=1, le=1024)
    """Rank of the adapters."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate η."""
    beta: float = Field(0.9999, ge=0, lt=1)
    """Decay β of the mean squared gradient of a weight."""
    eps: float = Field(1e-4, gt=0)
    """ε, added to its root."""
    decay: float = Field(3e-3, ge=0, lt=1)
    """Share δ of the way back to the start, per update."""
    reset: bool = True
    """Start the adapters anew at the start of a document."""


class Adapt(Section):
    """Score first, then learn: how the network goes on training on text that has been coded."""

    method: Method = "none"
    """How the network learns from text that was coded (docs/adapt.md)."""
    order: Literal["left-to-right", "lanes"] = "left-to-right"
    """What a token may depend on: earlier text only, or what other lanes coded before, too."""
    lanes: int = Field(16, ge=1, le=65536)
    """Most lanes that learn side by side."""
    sgd: Sgd = Sgd()
    dynamic: Dynamic = Dynamic()
    lora: Lora = Lora()

    def what_counts(self) -> dict[str, Any]:
        """Return the method and its own settings; those of other methods change nothing."""
        tree, chosen = self.model_dump(mode="json"), ("method", self.method)
        learns = self.method != "none"
        return {k: v for k, v in tree.items() if k in chosen or (learns and type(v) is not dict)}

    @property
    def settings(self) -> Sgd | Dynamic | Lora:
        """Return those of the method. Raises AttributeError for `none`."""
        settings: Sgd | Dynamic | Lora = getattr(self, self.method)
        return settings


class Recipe(Section):
    name: str = Field(min_length=1)
    """Name of the recipe; runs lie in runs/NAME unless `--out` says otherwise."""
    description: str = ""
    """One line about the recipe; changes nothing."""
    hardware: str = ""
    """Machine and training time that it is made for; changes nothing."""
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
