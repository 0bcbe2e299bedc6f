"""Headway: from a trained model to a service its owner can trust.

The public names are few, and each is imported when it is first used, so that `import headway` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle
    from headway.serve.local import load
    from headway.serve.server import Server
    from headway.shipping.recipe import Recipe
    from headway.shipping.ship import ship

__version__ = "0.1.0"
__all__ = ["Bundle", "Recipe", "Server", "load", "ship"]

_HOMES = {
    "Bundle": "headway.bundles.bundle",
    "Recipe": "headway.shipping.recipe",
    "Server": "headway.serve.server",
    "load": "headway.serve.local",
    "ship": "headway.shipping.ship",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
