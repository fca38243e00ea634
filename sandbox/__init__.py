"""Clouds in a box: local servers that speak each cloud's wire truthfully; knows nothing of the gateway."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.behaviour import BehaviourError
    from sandbox.cloud import DEMO
    from sandbox.config import config_text
    from sandbox.run import Sandbox

__all__ = ["DEMO", "BehaviourError", "Sandbox", "config_text"]

_HOMES = {
    "BehaviourError": "sandbox.behaviour",
    "DEMO": "sandbox.cloud",
    "Sandbox": "sandbox.run",
    "config_text": "sandbox.config",
}


def __getattr__(name: str) -> Any:
    """Loads the box only when it is used: `import sandbox` is also how its files find each other."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(importlib.import_module(_HOMES[name]), name)
