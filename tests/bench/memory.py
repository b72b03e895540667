"""Peak memory of `genkit train MODEL --preset quick`, as the kernel counted it (ru_maxrss).

With SOAK_MINUTES in the environment each model is also trained for so long, and its memory at the
end is compared with that after a tenth of the time, by when all is loaded: nothing may grow.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import Figure, Spread, main, run_process

MODELS = ("dcgan", "vae", "pixelcnn")
PAGE = os.sysconf("SC_PAGE_SIZE")


def soak(model: str, minutes: float) -> Figure:
    """Resident memory at the end of a training less that after a tenth of it: medians of a tenth of
    the time each, of looks once a second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "genkit", "train", model, "--preset", "quick"]
        command += ["--budget", f"{minutes * 60:g}s", "--run-dir", str(Path(folder, "run"))]
        resident = []
        with subprocess.Popen(
            [*command, "--progress", "none"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None:
                statm = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()
                if len(statm) > 1 and statm[1] != "0":  # it has not ended
                    resident.append(int(statm[1]) * PAGE / 1e9)
                time.sleep(1)
    if process.returncode:
        raise RuntimeError(f"{command} failed with {process.returncode}")
    tenth = max(len(resident) // 10, 1)
    early = statistics.median(resident[tenth : 2 * tenth])
    late = statistics.median(resident[-tenth:])
    return Figure(
        f"growth of memory in {minutes:g} minutes of training {model} (`quick`)",
        cpu=Spread.of([late - early]),
        unit="GB",
        note=f"from {early:.3g} to {late:.3g} GB",
    )


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
    minutes = float(os.environ.get("SOAK_MINUTES", 0))
    return figures + [soak(model, minutes) for model in MODELS if minutes]


if __name__ == "__main__":
    main(measure, __doc__)
