"""Turns a table of measurements into daily means."""

import csv
import os
from collections import defaultdict

from means import mean

project = os.environ["PROJECT_DIR"]

days = defaultdict(list)
with open(os.path.join(project, "data", "measurements", "temperature.csv"), newline="") as table:
    for row in csv.DictReader(table):
        days[row["time"][:10]].append(float(row["celsius"]))

os.makedirs(os.path.join(project, "result"), exist_ok=True)
with open(os.path.join(project, "result", "daily.csv"), "w", newline="") as table:
    out = csv.writer(table)
    out.writerow(["day", "mean", "readings"])
    for day, readings in sorted(days.items()):
        out.writerow([day, f"{mean(readings):.2f}", len(readings)])
        print(day, f"{mean(readings):.2f}")
