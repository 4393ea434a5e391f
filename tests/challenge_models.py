"""SentencePiece models with the challenge's settings, trained on a text of the tests."""

from pathlib import Path
from typing import Any

import sentencepiece


def train_challenge_model(path: Path, text: str, **settings: Any) -> Path:
    """Write a BPE model of 340 pieces: special pieces first, NFKC, byte fallback."""
    settings = {"model_type": "bpe", "vocab_size": 340} | settings
    with open(path, "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.splitlines()),
            model_writer=model,
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc",
            add_dummy_prefix=False,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
            **settings,
        )
    return path
