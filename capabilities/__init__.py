"""What code may ask of the outside: capabilities, their effects, and the errors a call can end with."""

from .base import CallContext, Capability, capability
from .errors import CallFailed, CallInDoubt, CallTimeout, CapabilityError, NotPerformed
from .registry import Registry
from .standard import standard

__all__ = [
    "CallContext",
    "CallFailed",
    "CallInDoubt",
    "CallTimeout",
    "Capability",
    "CapabilityError",
    "NotPerformed",
    "Registry",
    "capability",
    "standard",
]
