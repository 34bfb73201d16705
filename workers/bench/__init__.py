"""Measurements that need a worker and its guests; named in `perdure.engine.bench.running`."""

from .guest import bench_guest

__all__ = ["bench_guest"]
