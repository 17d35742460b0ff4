"""Batches are halved when memory runs out, in whatever words a device says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size

from augment.errors import ItemFailed
from augment.models.batches import in_batches, is_out_of_memory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.81 GB, other allocations: 1.20 GB)"),
    RuntimeError("Invalid buffer size: 20.25 GiB"),  # MPS, for one tensor that is larger than a buffer may be
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried to allocate 1"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"),
    RuntimeError("FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::1"),
    RuntimeError("XPU out of memory. Tried to allocate 1 GiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:40] or type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_whatever_the_device_says(error: BaseException) -> None:
    sizes: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 1 or items[0] == 3:
            raise error
        return [10 * item for item in items]

    results, fits = in_batches([1, 2, 3, 4], 4, work, "too large")
    assert [str(result) if isinstance(result, ItemFailed) else result for result in results] == [
        10,
        20,
        "too large",
        40,
    ]
    assert (sizes, fits) == ([4, 2, 1, 1, 1, 1], 1)


def test_everything_that_accelerate_halves_a_batch_for_is_known() -> None:
    theirs = [error for error in OUT_OF_MEMORY if isinstance(error, Exception) and should_reduce_batch_size(error)]
    assert len(theirs) >= 5
    assert all(is_out_of_memory(error) for error in theirs)


def test_another_error_is_raised_at_once() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_batches([1, 2], 2, work, "too large")
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_cpu_that_really_has_no_memory_is_understood() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if len(items) > 1:
            torch.empty(2**60, dtype=torch.uint8)
        return list(items)

    assert in_batches([1, 2], 2, work, "too large") == ([1, 2], 1)
