"""Classify gigapixel images by reading only the regions that look informative."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnet_cli.api import classify, evaluate, load_model, open_slide, train

__all__ = ["classify", "evaluate", "load_model", "open_slide", "train"]


def __getattr__(name: str) -> Any:
    # On first use, so that importing a part of tnet imports no other.
    if name in __all__:
        from tnet_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
