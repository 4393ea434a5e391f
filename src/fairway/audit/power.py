"""Say what an experiment would have found with probability 0.99 over its own random choices.

Of m independent uniform draws, none hits a share s of the places with probability (1 - s)^m. So a
fault that shows at s = 1 - 0.01^(1/m) of the places or more is found with probability 0.99.
Nothing is assumed about the scorer, but that its fault does not hide from our draws.
"""

from __future__ import annotations

MISS = 0.01


def share(draws: int) -> float:
    """Return the smallest share of places that `draws` draws miss with probability at most 0.01."""
    return 1.0 if draws == 0 else float(1 - MISS ** (1 / draws))


def reach(draws: int, ahead: int) -> float:
    """Return the smallest share of positions, looking `ahead` tokens too far, that cuts find.

    A cut is crossed by such a look from any of the `ahead` positions before it, so it misses all
    of them with probability (1 - s)^ahead.
    """
    return share(draws * max(ahead, 1))


def percent(value: float) -> str:
    """Return a share in percent, with three digits."""
    return f"{100 * value:.3g} %"


def cuts(draws: int, length: int) -> str:
    """Describe the power of cuts at random places of texts of `length` tokens."""
    if not draws:
        return "none"
    steps = [r for r in (1, 16, 256, 4096, 65536) if r < length]
    parts = [f"{percent(reach(draws, r))} of positions looking {r:,} tokens ahead" for r in steps]
    return (
        f"{draws} random cuts in {length:,} tokens: with probability 0.99 a leak that crosses "
        f"{percent(share(draws))} of cuts; scattered, {', '.join(parts)}"
    )
