"""Device memory is the host's, and copies are done at once."""

import ctypes

import numpy as np


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class _Context:
    def push(self):
        pass

    def pop(self):
        pass


class device_attribute:
    INTEGRATED = 18


class Device:
    def __init__(self, number):
        pass

    @staticmethod
    def count():
        return 1

    def name(self):
        return "NVIDIA Tegra X1"

    def compute_capability(self):
        return 5, 3

    def retain_primary_context(self):
        return _Context()

    def get_attribute(self, attribute):
        return 1


class _Block:
    def __init__(self, nbytes):
        self.room = ctypes.create_string_buffer(nbytes + 512)
        self.address = -(-ctypes.addressof(self.room) // 512) * 512

    def __int__(self):
        return self.address

    def free(self):
        self.room = None


class Stream:
    handle = 0x100

    def __init__(self, flags):
        pass

    def synchronize(self):
        pass


def init():
    pass


def get_driver_version():
    return 10020


def mem_get_info():
    return 1 << 30, 4 << 30


def mem_alloc(nbytes):
    return _Block(nbytes)


def pagelocked_empty(shape, dtype, mem_flags=0):
    return np.empty(shape, dtype)


def memcpy_htod_async(address, array, stream):
    ctypes.memmove(address, array.ctypes.data, array.nbytes)


def memcpy_dtoh_async(array, address, stream):
    ctypes.memmove(array.ctypes.data, address, array.nbytes)


def memset_d8_async(address, value, nbytes, stream):
    ctypes.memset(address, value, nbytes)
