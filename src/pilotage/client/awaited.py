"""Attributes that handles and managers lack: what comes with a later version, and slips of the pen."""

from __future__ import annotations

from pilotage.errors import UnknownAttribute, nearest

_RAPTOR = "masters and workers (RAPTOR)"
_RPC = "remote calls into pilots"

AWAITED = {
    "submit_raptors": _RAPTOR,
    "submit_workers": _RAPTOR,
    "rpc": _RPC,
    "pilot_rpc": _RPC,
}
"""What users of RADICAL-Pilot know of handles and managers and this version lacks, and the feature that brings it."""


def unknown_attribute(handle: object, name: str) -> AttributeError:
    """Return the error for an attribute that a handle lacks; it names the nearest one."""
    kind = type(handle)
    if name.startswith("__"):
        return AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
    if name in AWAITED:
        return UnknownAttribute(f"{kind.__name__}.{name} is not supported yet by this version; it comes with {AWAITED[name]}")
    if isinstance(found := getattr(kind, name, None), property) and found.fget is not None:
        try:
            found.fget(handle)
        except AttributeError as error:  # Python hides what a property raised; this tells it
            return error
    known = [known for known in dir(kind) if not known.startswith("_")]
    return UnknownAttribute(f"{kind.__name__} has no attribute {name!r}{nearest(name, known)}")
