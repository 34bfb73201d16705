"""Measurements, as ratios against a yardstick of the same run; ``perdure bench`` prints them."""

from .running import BENCHES, run_bench

__all__ = ["BENCHES", "run_bench"]
