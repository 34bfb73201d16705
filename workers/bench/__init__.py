"""Measurements that need a worker and its guests; named in `perdure.engine.bench.running`."""

from .guest import bench_guest
from .replay import bench_replay

__all__ = ["bench_guest", "bench_replay"]
