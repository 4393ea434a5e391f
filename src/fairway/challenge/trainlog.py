"""The training log of a run in the challenge's words, from typed results and metrics only."""

from __future__ import annotations

from fairway.config.schema import Recipe
from fairway.config.toml import dumps
from fairway.console import read_metrics
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import Decoded, PrepareResult, ProveResult, ScoreResult, TrainResult

_LINES = 200  # of training steps, at most


def text(recipe: Recipe, run: RunDirectory, code_bytes: int, decoded: Decoded) -> str:
    """Return the log, whose last score is that of the proof, as `decoded` says.

    code_bytes: of the script that a submission ships. Raises BadInput.
    """
    data, train = run.require(PrepareResult), run.require(TrainResult)
    score, prove = run.require(ScoreResult), run.require(ProveResult)
    end_ms = f"{1000 * train.train_s:.0f}ms"
    lines = [
        *(f"recipe: {line}" for line in dumps(recipe).splitlines() if line),
        f"val_loader: tokens:{data.val_tokens} bytes:{data.val_bytes} sha256:{data.text_sha256}",
        f"train_loader: tokens:{data.train_tokens} sha256:{data.train_sha256}",
        f"model_params:{train.parameters} world_size:{train.world_size} seed:{train.seed}",
        *_steps(run, train),
        f"step:{train.steps}/{train.steps} val_loss:{train.val_nats_per_token:.4f} "
        f"val_bpb:{train.val_bpb:.4f} train_time:{end_ms}",
        f"stopping: train_time:{end_ms} step:{train.steps}/{train.steps}",
        f"Serialized model fairway: {decoded.artifact_bytes} bytes",
        f"Code size: {code_bytes} bytes",
        f"Total submission size fairway: {decoded.artifact_bytes + code_bytes} bytes",
        f"scored_{score.protocol}_claimed val_loss:{score.nats_per_token:.8f} "
        f"val_bpb:{score.bpb:.8f}",
        f"proof: bytes:{decoded.proof_bytes} text_bytes:{decoded.text_bytes} "
        f"text_sha256:{decoded.text_sha256} artifact_sha256:{decoded.artifact_sha256} "
        f"encode_time:{1000 * prove.encode_s:.0f}ms",
        f"final_proof_exact val_loss:{decoded.nats_per_token:.8f} val_bpb:{decoded.bpb:.8f} "
        f"eval_time:{1000 * score.seconds:.0f}ms",
    ]
    return "\n".join(lines) + "\n"


def _steps(run: RunDirectory, train: TrainResult) -> list[str]:
    """Return a line for some of the steps; the run's metrics.jsonl has all."""
    losses = [entry for entry in read_metrics(run.metrics) if "loss" in entry]
    every = -(-len(losses) // _LINES) or 1
    return [
        f"step:{entry['step']:.0f}/{train.steps} train_loss:{entry['loss']:.4f}"
        for entry in losses[::every]
    ]
