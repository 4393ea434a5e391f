"""The starting system's forward pass, written again from its specification, slowly:
one row, one head and one position at a time, in float64, sharing nothing with src/."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def rms(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1.1920929e-7)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rope(x: Array, position: int, base: float) -> Array:
    half = len(x) // 2
    theta = position * base ** (-2 * np.arange(half) / len(x))
    a, b = x[:half], x[half:]
    return np.concatenate(
        [a * np.cos(theta) + b * np.sin(theta), -a * np.sin(theta) + b * np.cos(theta)]
    )


def attention(u: Array, w: dict[str, Array], heads: int, kv_heads: int, base: float) -> Array:
    T, d = u.shape
    h = d // heads
    q, k, v = u @ w["q"].T, u @ w["k"].T, u @ w["v"].T
    out = np.zeros((T, d))
    for head in range(heads):
        group = head // (heads // kv_heads)
        qs = [
            rope(rms(q[t, head * h : head * h + h]), t, base) * w["q_gain"][head] for t in range(T)
        ]
        ks = [rope(rms(k[t, group * h : group * h + h]), t, base) for t in range(T)]
        for t in range(T):
            scores = np.array([qs[t] @ ks[s] for s in range(t + 1)]) / np.sqrt(h)
            p = np.exp(scores - scores.max())
            p /= p.sum()
            out[t, head * h : head * h + h] = p @ v[: t + 1, group * h : group * h + h]
    return out @ w["o"].T


def logits(tokens: Array, w: dict[str, Array], shape: dict[str, float]) -> Array:
    """tokens int[T], float64 weights by Fairway's names → logits [T, V], documents ignored."""
    T, L = len(tokens), int(shape["num_layers"])
    rows = int(shape["bigram_rows"])
    pairs = [rows - 1] + [
        ((36313 * int(tokens[i])) ^ (27191 * int(tokens[i - 1]))) % (rows - 1) for i in range(1, T)
    ]
    bigram = w["embed.bigram_table"][pairs] @ w["embed.bigram_proj"].T
    x = rms(w["embed.tokens"][tokens] + w["embed.bigram_scale"] * bigram)
    g = sigmoid(w["embed.smear_gate"])
    x = (1 - g) * x + g * np.vstack([np.zeros(x.shape[1]), x[:-1]])
    x0, stack = x, []
    for i in range(L):
        if i >= L // 2 and stack:
            x = x + w["skips"][i - L // 2] * stack.pop()
        b = {
            n.removeprefix(f"blocks.{i}."): v for n, v in w.items() if n.startswith(f"blocks.{i}.")
        }
        x = b["mix"][0] * x + b["mix"][1] * x0
        attn = {n.removeprefix("attn."): v for n, v in b.items() if n.startswith("attn.")}
        x = x + b["attn_scale"] * attention(
            rms(x), attn, int(shape["num_heads"]), int(shape["num_kv_heads"]), shape["rope_base"]
        )
        hidden = np.maximum(rms(x) @ b["mlp.up"].T, 0) ** 2
        x = x + b["mlp_scale"] * (hidden @ b["mlp.down"].T)
        if i < L // 2:
            stack.append(x)
    z = rms(x) @ w["embed.tokens"].T
    return shape["softcap"] * np.tanh(z / shape["softcap"])
