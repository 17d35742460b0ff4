"""For tests and benchmarks, ours and those of other packages: what a store promises, and material to try things on."""

from augment.testing.stores import StoreTests

__all__ = ["StoreTests"]
