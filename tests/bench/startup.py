"""Start-up: CPU seconds of light commands against those of `import torch`, interleaved.

python tests/bench/startup.py [--rounds 7]
"""

import argparse
import os
import statistics
import subprocess
import sys

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "genkit --help": ["-m", "genkit", "--help"],
    "genkit list": ["-m", "genkit", "list"],
    "genkit train dcgan --help": ["-m", "genkit", "train", "dcgan", "--help"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of a whole process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_seconds(arguments))
    base = statistics.median(times["import torch"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:28} {median:.2f} s CPU  {median / base:.3f} of import torch")


if __name__ == "__main__":
    main()
