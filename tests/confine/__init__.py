"""Tests of confinement: the layers, the attack list, and what must go on working inside."""
