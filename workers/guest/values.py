"""The encoding of values, which host and guest share."""

# re-export for the host; the guest gets it preloaded
from perdure.capabilities.values import NotPlain, decode, encode

__all__ = ["NotPlain", "decode", "encode"]
