"""The L7 proxy. Its hot modules are compiled, where somebody has done so: see `l7.compiled`."""

from l7 import compiled

__all__ = ["compiled"]
