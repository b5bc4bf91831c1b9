"""How much memory of a GPU is taken, whoever takes it: asked of the driver's own library (NVML).

CUDA would say it too (cudaMemGetInfo), but only to a process that has a context on the device: that costs each asking
process some hundred MiB of every device, which the engines count on. Source: NVML API reference, "Device Queries".
"""

from __future__ import annotations

import ctypes

LIBRARY = "libnvidia-ml.so.1"  # comes with the driver


class _Memory(ctypes.Structure):
    """nvmlMemory_t, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Nvml:
    """The driver's library. Raises OSError where there is none, or no driver behind it."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._nvml = ctypes.CDLL(library)
        code = self._nvml.nvmlInit_v2()
        if code:
            raise OSError(f"{library}: nvmlInit_v2 returned {code}; nvidia-smi says more")

    def used_bytes(self, device: str) -> int | None:
        """Memory of a device that is taken, bytes; None where the driver does not tell it.

        `device` is an entry of CUDA_VISIBLE_DEVICES: a UUID (`GPU-…`, `MIG-…`), or a number. CUDA and NVML number the
        devices of a node alike as long as they are of one kind, or CUDA_DEVICE_ORDER is PCI_BUS_ID.
        """
        handle, memory = ctypes.c_void_p(), _Memory()
        if device.isdecimal():
            code = self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(device)), ctypes.byref(handle))
        else:
            code = self._nvml.nvmlDeviceGetHandleByUUID(device.encode(), ctypes.byref(handle))
        if code or self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
        return memory.used
