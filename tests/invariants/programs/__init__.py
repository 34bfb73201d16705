"""The corpus, by name."""

from . import concurrent, incidents, sequential, sessions, threads, times, waiting

__all__ = ["PROGRAMS", "UNLIKE"]

_ALL = [
    program
    for module in (sequential, concurrent, threads, times, waiting, sessions, incidents)
    for program in module.PROGRAMS
]

PROGRAMS = {program.name: program for program in _ALL}

UNLIKE = {program.name: program for program in incidents.UNLIKE}

assert len(PROGRAMS) == len(_ALL), "two programs of one name"
