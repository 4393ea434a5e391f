"""What counts against the challenge's 16,000,000 bytes."""

CHALLENGE_BYTES = 16_000_000  # decimal: the artifact and the submission's script together


def sentence(artifact_bytes: int) -> str:
    """Say how an artifact stands to the challenge's limit."""
    share = artifact_bytes / CHALLENGE_BYTES
    return (
        f"{artifact_bytes:,} of the challenge's {CHALLENGE_BYTES:,} bytes ({share:.1%}); the "
        "submission's script counts, too: fairway submit writes and counts it"
    )
