"""Train two models on the same digits for a minute each, rank them, and look at the winner.

python examples/compare.py
"""

import genkit

comparison = genkit.compare(["dcgan", "vae"], data="mnist-mini", budget="60s")
comparison.print()

best = next(row for row in comparison.rows if row.rank == 1)
run = genkit.load(best.run)
run.grid(64, seed=1).save("winner.png")
print(f"winner.png shows 64 samples of {best.name}")
