"""Estimates pi. Every process draws points of its own and writes a result of its own:

    pollinator run --follow --processes 4
"""

import json
import os
import random

project = os.environ["PROJECT_DIR"]
process = os.environ["COLONIES_PROCESS_ID"]

with open(os.path.join(project, "data", "settings.json")) as settings:
    points = json.load(settings)["points"]

draw = random.Random(process)
inside = sum(draw.random() ** 2 + draw.random() ** 2 <= 1.0 for _ in range(points))
estimate = 4 * inside / points
print(f"process {process[:8]}: pi is about {estimate:.4f} ({points} points)")

folder = os.path.join(os.environ["RESULT_DIR"], "estimates")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, process[:16] + ".json"), "w") as out:
    json.dump({"process": process, "points": points, "pi": estimate}, out)
