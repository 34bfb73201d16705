"""The demonstration: a real script, killed twice, that loses nothing and does nothing twice."""

from .show import run_demo

__all__ = ["run_demo"]
