"""The sub-commands beyond Lightning's own, one file each."""

from typing import Any


def on_one_device(devices: Any) -> dict[str, Any]:
    """The Trainer's settings for one process on the first of its configured devices.

    Args:
        devices: As configured: a number, a list, or either as text.
    """
    if isinstance(devices, str) and "," in devices:
        devices = [int(number) for number in devices.split(",") if number.strip()]
    return {"devices": devices[:1] if isinstance(devices, list) else 1, "num_nodes": 1, "strategy": "auto"}
