"""What a training run came to. Nothing heavy is imported: results are read without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Trained(BaseModel):
    """What a training run came to. Seconds are by clock; calibration is part of train_s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    steps: int
    tokens: int
    train_s: float
    calibration_s: float
    compile_s: float
    score_s: float
    pause_s: float
    tokens_per_s: float
    val_bpb: float
    val_nats_per_token: float
