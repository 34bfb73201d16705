"""Measurements that need a worker and its guests; named in `perdure.engine.bench.running`."""
