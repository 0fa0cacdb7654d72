"""Descends a noisy valley. One process for each rate and seed:

    pollinator run --follow
"""

import json
import os
import random

rate, seed = float(os.environ["RATE"]), int(os.environ["SEED"])
with open(os.path.join(os.environ["PROJECT_DIR"], "data", "settings.json")) as settings:
    steps = json.load(settings)["steps"]

noise = random.Random(seed)
place = 10.0
for _ in range(steps):
    place -= rate * (2 * place + noise.gauss(0, 1))
print(f"after {steps} steps at {place:.4f}")

# Each process has a folder of its own for its results.
with open(os.path.join(os.environ["RESULT_DIR"], "end.json"), "w") as out:
    json.dump({"rate": rate, "seed": seed, "place": place}, out)
