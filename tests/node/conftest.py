"""The same gateway and clouds as for the Python SDK."""

from tests.sdk.conftest import box, gateway

__all__ = ["box", "gateway"]
