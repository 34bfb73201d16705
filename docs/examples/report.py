"""The week of a snowstorm at New York's airports: clean, aggregate, file claims, ask, report.

    perdure run docs/examples/report.py http://127.0.0.1:8000 \
        --with docs/examples/flights.csv --grant http --grant ask

This is ordinary Python, read from top to bottom. Nothing in it knows of crashes, retries or keys: ``http`` and ``ask``
are the capabilities it was granted, and the service at the other end files each claim once.
"""

import asyncio
import csv
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import mean, median

SERVICE = sys.argv[1]
HERE = Path(__file__).parent
LATE = 180  # minutes at arrival from which a flight counts as badly late


def number(text):
    """Missing readings are written NA."""
    return None if text in {"", "NA"} else int(text)


def clean(row):
    scheduled = number(row["sched_dep_time"])
    return {
        "day": date(int(row["year"]), int(row["month"]), int(row["day"])),
        "airline": row["carrier"].strip(),
        "from": row["origin"],
        "scheduled": f"{scheduled // 100:02}:{scheduled % 100:02}",
        "cancelled": number(row["dep_time"]) is None,
        "delay": number(row["arr_delay"]),
    }


with (HERE / "flights.csv").open(newline="") as file:
    flights = [clean(row) for row in csv.DictReader(file)]
cancelled = sum(flight["cancelled"] for flight in flights)
print(f"{len(flights)} flights, {cancelled} cancelled, {min(f['day'] for f in flights)} to {max(f['day'] for f in flights)}")

by_airline = defaultdict(list)
by_day = defaultdict(list)
for flight in flights:
    by_airline[flight["airline"]].append(flight)
    by_day[flight["day"]].append(flight)


def summary(some):
    delays = [flight["delay"] for flight in some if flight["delay"] is not None]
    return {
        "flights": len(some),
        "cancelled": sum(flight["cancelled"] for flight in some),
        "badly_late": sum(delay >= LATE for delay in delays),
        "median_delay": median(delays) if delays else None,
        "mean_delay": round(mean(delays), 1) if delays else None,
    }


airlines = {name: summary(some) for name, some in by_airline.items()}
largest = sorted(airlines, key=lambda name: -airlines[name]["flights"])
claims = {}


def claim_of(name):
    figures = airlines[name]
    return {"airline": name, "cancelled": figures["cancelled"], "badly_late": figures["badly_late"]}


print("filing the claims of the large airlines, one after another")
for name in largest[:6]:
    reply = http.post_idempotent(f"{SERVICE}/claims", json=claim_of(name))
    claims[name] = reply["json"]
    print(f"  {name}  {claims[name]['claim']}  {claims[name]['amount']:>7,}")


async def file_claim(name):
    """Two requests in a row for each airline, while those of the others are under way."""
    reply = await http.post_idempotent(f"{SERVICE}/claims", json=claim_of(name))
    claim = reply["json"]["claim"]
    await http.post_idempotent(f"{SERVICE}/notices", json={"airline": name, "claim": claim})
    return name, reply["json"]


print("and those of the others all at once")
for name, claim in await asyncio.gather(*(file_claim(name) for name in largest[6:])):
    claims[name] = claim
    print(f"  {name}  {claim['claim']}  {claim['amount']:>7,}")

total = sum(claim["amount"] for claim in claims.values())
approved = ask(f"{len(claims)} claims over {total:,} dollars: send the report?", choices=["yes", "no"])

lines = [
    "# Flights from New York, 5 to 11 February 2013",
    "",
    f"{len(flights)} flights, {cancelled} cancelled. Report {'approved' if approved == 'yes' else 'held back'}.",
    "",
    "| day | flights | cancelled | median delay |",
    "|---|--:|--:|--:|",
]
for day in sorted(by_day):
    figures = summary(by_day[day])
    lines.append(f"| {day:%a %d %b} | {figures['flights']} | {figures['cancelled']} | {figures['median_delay']} |")
lines += ["", "| airline | flights | cancelled | badly late | claim | dollars |", "|---|--:|--:|--:|---|--:|"]
for name in largest:
    figures, claim = airlines[name], claims[name]
    lines.append(
        f"| {name} | {figures['flights']} | {figures['cancelled']} | {figures['badly_late']} "
        f"| {claim['claim']} | {claim['amount']:,} |"
    )
lines.append(f"| all | {len(flights)} | {cancelled} | | {len(claims)} claims | {total:,} |")

report = "\n".join(lines) + "\n"
(HERE / "report.md").write_text(report)
print(report)
