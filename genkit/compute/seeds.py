"""Random numbers as a function of seed and step."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed and what it is for.

    Hashed, because torch's CPU generator ignores the high 32 bits of a seed and because
    neighbouring seeds should have nothing in common.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    low, high = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
    return (high & 0x7FFFFFFF) << 32 | low


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed torch's generators for the CPU and for a device.

    `torch.manual_seed` also looks for every other kind of device, at up to 0.3 ms a call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
