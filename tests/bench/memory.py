"""Peak memory of `genkit train MODEL --preset quick`, as the kernel counted it (ru_maxrss)."""

import tempfile
from pathlib import Path

from timing import Figure, Spread, main, run_process

MODELS = ("dcgan", "vae", "pixelcnn")


def measure(quick: bool) -> list[Figure]:
    torch = run_process(["-c", "import torch"]).peak_bytes
    figures = []
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            budget = ["--budget", "1s" if quick else "20s"]
            command = ["-m", "genkit", "train", model, "--preset", "quick", *budget]
            peak = run_process([*command, "--run-dir", str(Path(folder, "run"))]).peak_bytes
        figures.append(
            Figure(
                f"peak memory of training {model} (`quick`)",
                cpu=Spread.of([peak / 1e9]),
                unit="GB",
                must=1.0,
                aim=0.8,
                note=f"`import torch` alone {torch / 1e9:.3g} GB",
            )
        )
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
