"""Our network against the original's classes: the same weights, the same logits (fp32).

python bench/same_logits.py --peer peer.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import peer as peers
from fairway.config import toml
from fairway.model.gpt import build

NAMES = {
    "embed.tokens": "tok_emb.weight",
    "embed.bigram_table": "bigram.embed.weight",
    "embed.bigram_proj": "bigram.proj.weight",
    "embed.bigram_scale": "bigram.scale",
    "embed.smear_gate": "smear.gate",
    "skips": "skip_weights",
    "mix": "resid_mix",
    "attn.q_gain": "attn.q_gain",
    "attn.o": "attn.proj.weight",
    "mlp.up": "mlp.fc.weight",
    "mlp.down": "mlp.proj.weight",
} | {f"attn.{x}": f"attn.c_{x}.weight" for x in "qkv"}


def their_name(name: str) -> str:
    """Name of one of our parameters in the original's state dict."""
    prefix, leaf = ("", name)
    if name.startswith("blocks."):
        _, index, leaf = name.split(".", 2)
        prefix = f"blocks.{index}."
    return prefix + NAMES.get(leaf, leaf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    args = parser.parse_args()
    loaded = toml.load("pr264", ["model.document_aware=false", "model.window=256"])
    ours = build(loaded.model, loaded.data.vocab_size, 1, seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn(p.shape, generator=random) * 0.05)
    theirs = peers.build(peers.load(args.peer), loaded.model, loaded.data.vocab_size)
    state = {their_name(name): p.detach() for name, p in ours.named_parameters()}
    theirs.load_state_dict(state, strict=True)
    tokens = torch.randint(0, 1024, (2, 256), generator=random)
    with torch.inference_mode():
        a, b = ours.logits(tokens), theirs.forward_logits(tokens)
    error = float((a - b).norm() / b.norm())
    print(f"{sum(p.numel() for p in theirs.parameters()):,} parameters, relative error {error:.2e}")
    raise SystemExit(error >= 1e-4)


if __name__ == "__main__":
    main()
