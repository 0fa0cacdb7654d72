"""A job that fails half-way: the partial result comes home, and `pollinator run --follow` exits with 3."""

import os
import sys

result = os.path.join(os.environ["PROJECT_DIR"], "result")
os.makedirs(result, exist_ok=True)

with open(os.path.join(result, "partial.txt"), "w") as out:
    out.write("steps 1 and 2 are done\n")

print("step 1 done")
print("step 2 done", flush=True)
print("step 3 cannot be done: the input is missing", file=sys.stderr)
sys.exit(7)
