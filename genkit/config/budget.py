"""Budgets of training: how long, in seconds, images, steps, epochs or floating-point operations.
Imports almost nothing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

UNITS = {
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "h": ("seconds", 3600),
    "kimg": ("images", 1000),
    "steps": ("steps", 1),
    "epochs": ("epochs", 1),
    "tflop": ("flop", 1e12),
}


@dataclass(frozen=True)
class Budget:
    """How long to train: an amount of seconds, images, steps, epochs or floating-point operations
    ("flop")."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "90s", "10m", "2h", "200kimg", "5000steps", "20epochs" or "10tflop"; else
        ValueError."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.strip().lower())
        if not match or match[2] not in UNITS or not 0 < float(match[1]) < math.inf:
            raise ValueError(
                f"{text!r} is not a budget; write for instance 90s, 10m, 2h, 200kimg, 5000steps, "
                "20epochs or 10tflop, more than 0"
            )
        unit, factor = UNITS[match[2]]
        amount = float(match[1]) * factor
        if unit == "steps" and amount != int(amount):
            raise ValueError(f"{text!r} is not a budget; steps are whole numbers")
        return cls(amount, unit)

    def in_images(self, flop_per_image: float | None) -> Budget:
        """The same budget; one of floating-point operations as the images that they suffice for."""
        if self.unit != "flop" or not flop_per_image:
            return self
        return Budget(self.amount / flop_per_image, "images")

    def spent(self, *, step: int, images: int, seconds: float, images_per_epoch: int) -> float:
        """The share of the budget that is used up, 0 to 1 and above."""
        done = {
            "seconds": seconds,
            "images": images,
            "steps": step,
            "epochs": images / images_per_epoch,
        }
        return done[self.unit] / self.amount
