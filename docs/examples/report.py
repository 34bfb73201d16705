"""What the blizzard of February 2013 did to each airline of New York, and a claim filed for each.

An ordinary script: it reads a file, asks a service over HTTP once for every airline (a few at a time), asks a person
to approve, and writes a report. Start it with

    perdure run docs/examples/report.py URL --with docs/examples/flights.csv --grant http --grant ask
"""

import asyncio
import csv
import sys
from collections import defaultdict
from pathlib import Path

service = sys.argv[1]

# Read and clean.
flights = []
with open("flights.csv", newline="") as file:
    for row in csv.DictReader(file):
        late = row["arr_delay"]
        flights.append(
            {
                "carrier": row["carrier"],
                "cancelled": row["dep_time"] == "NA",
                "late": None if late == "NA" else float(late),
            }
        )
print(f"read {len(flights)} flights")

# Aggregate.
groups = defaultdict(list)
for flight in flights:
    groups[flight["carrier"]].append(flight)


def summary(carrier):
    every = groups[carrier]
    late = [flight["late"] for flight in every if flight["late"] is not None]
    return {
        "carrier": carrier,
        "flights": len(every),
        "cancelled": sum(flight["cancelled"] for flight in every),
        "late": round(sum(late) / len(late), 1) if late else None,
    }


summaries = [summary(carrier) for carrier in sorted(groups)]
print(f"{len(summaries)} airlines, {sum(each['cancelled'] for each in summaries)} flights cancelled")


# File a claim for each: the big ones one after another, the others three at a time.
def shown(each, reply):
    print(
        f"  {each['carrier']}: {each['cancelled']:4} of {each['flights']:4} cancelled, claim {reply['json']['claim']}"
    )
    return {**each, "claim": reply["json"]["claim"]}


claims = []
big = [each for each in summaries if each["flights"] >= 500]
for each in big:
    claims.append(shown(each, http.post_idempotent(f"{service}/claims", json=each)))

gate = asyncio.Semaphore(3)


async def file_claim(each):
    async with gate:
        return each, await http.post_idempotent(f"{service}/claims", json=each)


small = [each for each in summaries if each["flights"] < 500]
for each, reply in await asyncio.gather(*[file_claim(each) for each in small]):
    claims.append(shown(each, reply))

# Ask, then write.
total = sum(each["cancelled"] for each in claims)
decision = ask(f"File {len(claims)} claims for {total} cancelled flights?", choices=["yes", "no"])

lines = ["airline  flights  cancelled  mean delay  claim"]
for each in sorted(claims, key=lambda each: -each["cancelled"]):
    lines.append(
        f"{each['carrier']:7}  {each['flights']:7}  {each['cancelled']:9}  {each['late']!s:>10}  {each['claim']:5}"
    )
lines.append(f"approved: {decision}")
report = "\n".join(lines) + "\n"
Path("report.txt").write_text(report)
print(report, end="")
