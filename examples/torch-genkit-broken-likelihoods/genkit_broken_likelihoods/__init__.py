"""Five autoregressive models whose likelihood is none, and an honest one, as a genkit plugin."""

from genkit.hookspecs import hookimpl
from genkit.specs import TrainerSpec

# Name, class, and what is wrong.
MODELS = (
    ("honest", "Honest", "Nothing is wrong: a small PixelRNN of black-and-white images."),
    ("unshifted-map", "NotShifted", "The map from right to left is not shifted down by a row."),
    ("mask-b-first", "MaskBForA", "The first convolution has mask B in place of mask A."),
    (
        "taps-padded-below",
        "PaddedBelow",
        "The recurrence's two taps are padded at the bottom.",
    ),
    ("colours-see-each-other", "ColoursSeeEachOther", "Each colour of a pixel sees the others."),
    ("nats-in-bits", "InBits", "The likelihood is in bits and is given as nats."),
)


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name=name,
            summary=summary,
            target=f"genkit_broken_likelihoods.models:{target}",
            budget="2kimg",
        )
        for name, target, summary in MODELS
    ]
