"""The starting system's own script, loaded from a path that the user names; never copied here.

    git -C parameter-golf show ab0777880:records/track_10min_16mb/\\
2026-03-21_11L_Int5MLP_TTT_SmearGate/train_gpt.py > peer.py
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fairway.config.schema import Model, Optim
from fairway.errors import BadInput


def load(path: Path) -> ModuleType:
    """Import the script; its work is behind `if __name__`. Raises BadInput."""
    spec = importlib.util.spec_from_file_location("peer_train_gpt", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise BadInput(f"no script {path}: bench/peer.py says where it comes from")
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_train_gpt"] = module
    spec.loader.exec_module(module)
    return module


def build(script: ModuleType, shape: Model, vocab_size: int) -> Any:
    """The original's GPT of this shape, fp32."""
    return script.GPT(
        vocab_size=vocab_size,
        num_layers=shape.num_layers,
        model_dim=shape.dim,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        mlp_mult=shape.mlp_mult,
        tie_embeddings=True,
        tied_embed_init_std=shape.embed_std,
        logit_softcap=shape.softcap,
        rope_base=shape.rope_base,
        qk_gain_init=shape.qk_gain,
        bigram_vocab_size=shape.bigram_rows,
        bigram_dim=shape.bigram_dim,
    )


def in_bfloat16(script: ModuleType, model: Any) -> Any:
    """As the original's main() makes it: embeddings in bf16, matrices and vectors in fp32."""
    model = model.bfloat16()
    for module in model.modules():
        if isinstance(module, script.CastedLinear):
            module.float()
    script.restore_low_dim_params_to_fp32(model)
    return model


class Stepper:
    """The original's optimizers over its own grouping (pull request 264 of the challenge)."""

    def __init__(self, script: ModuleType, model: Any, optim: Optim) -> None:
        self.parameters = list(model.parameters())
        named = list(model.named_parameters())
        embeddings = [p for n, p in named if n in ("tok_emb.weight", "bigram.embed.weight")]
        matrices = [
            p
            for n, p in named
            if p.ndim == 2 and n.endswith(".weight") and not any(p is e for e in embeddings)
        ]
        owned = {id(p) for p in embeddings + matrices}
        rest = [p for p in self.parameters if id(p) not in owned]
        common: dict[str, Any] = {
            "betas": (optim.beta1, optim.beta2),
            "eps": optim.adam_eps,
            "fused": True,
        }
        self.adams = [
            torch.optim.AdamW(ps, lr=lr, weight_decay=optim.weight_decay, **common)
            for ps, lr in ((embeddings, optim.embed_lr), (rest, optim.scalar_lr))
        ]
        self.muon = script.Muon(
            matrices,
            lr=optim.matrix_lr,
            momentum=optim.momentum,
            backend_steps=optim.newton_schulz_steps,
            weight_decay=optim.weight_decay,
        )
        self.optim = optim
        self.peaks = [(a, a.param_groups[0]["lr"]) for a in (*self.adams, self.muon)]

    def step(self, multiplier: float, momentum: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.grad_clip or math.inf)
        for optimizer, peak in self.peaks:
            optimizer.param_groups[0]["lr"] = peak * multiplier
        self.muon.param_groups[0]["momentum"] = momentum
        for optimizer, _ in self.peaks:
            optimizer.step()
        for p in self.parameters:
            p.grad = None
