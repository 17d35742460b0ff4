"""Helpers for tests and benchmarks, here and in other packages: a test suite for stores, and test material."""

from augment.testing.stores import StoreTests

__all__ = ["StoreTests"]
