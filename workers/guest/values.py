"""Plain data in and out; one implementation for host and guest."""

# re-export for the host; the guest gets it preloaded
from perdure.capabilities.values import NotPlain, Ref, decode, encode

__all__ = ["NotPlain", "Ref", "decode", "encode"]
