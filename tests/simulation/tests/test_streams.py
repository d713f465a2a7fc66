"""Streams, events and copies: work happens when it is waited for, and what nothing puts in order is a race."""

import numpy as np
import pytest

from .helpers import misuse, pycuda_context


def numbers(cuda, values=(1.0, 2.0)):
    """(device memory, page-locked array holding the values)"""
    host = cuda.pagelocked_empty(len(values), np.float32)
    host[...] = values
    return cuda.mem_alloc(host.nbytes), host


def test_work_happens_when_it_is_waited_for(device, cuda):
    memory, host = numbers(cuda)
    answer, stream, event = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1), cuda.Event(2)
    cuda.memcpy_htod_async(memory, host, stream)
    cuda.memcpy_dtoh_async(answer, memory, stream)
    event.record(stream)
    cuda.memset_d8_async(memory, 0, 8, stream)
    assert not event.query() and not stream.is_done() and device.timeline.waits == []
    event.synchronize()
    assert answer.tolist() == [1, 2] and event.query() and not stream.is_done()
    assert device.timeline.waits == ["event"]
    stream.synchronize()
    memory.free()


def test_reading_too_early_gives_nan_and_is_recorded():
    with misuse("the host read page-locked memory before this had happened"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        answer, stream = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1)
        answer[...] = 7
        cuda.memcpy_htod_async(memory, host, stream)
        cuda.memcpy_dtoh_async(answer, memory, stream)
        assert np.isnan(answer).all()
        stream.synchronize()
        assert (answer == host).all()
        memory.free()


@pytest.mark.parametrize(
    "look",
    [lambda a: a[0], lambda a: float(a[0]), lambda a: a > 0, list, lambda a: a.max(), lambda a: a.copy(), np.sum],
)
def test_every_way_of_reading_is_seen(look):
    with misuse("the host read page-locked memory"), pycuda_context() as cuda:
        memory, _ = numbers(cuda)
        answer, stream = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1)
        cuda.memcpy_dtoh_async(answer, memory, stream)
        view = answer[:1].reshape(1, 1)  # taking a view is no look
        look(view.reshape(-1))
        stream.synchronize()
        memory.free()


def test_an_event_that_was_not_recorded_waits_for_nothing():
    with misuse("the host read page-locked memory"), pycuda_context() as cuda:
        memory, _ = numbers(cuda)
        answer, stream, event = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1), cuda.Event()
        cuda.memcpy_dtoh_async(answer, memory, stream)
        event.synchronize()
        assert np.isnan(answer[0])
        stream.synchronize()
        memory.free()


def test_the_host_leaves_memory_alone_that_is_being_copied():
    with misuse("changed page-locked memory before", "wrote into page-locked memory before"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        target, stream = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1)
        cuda.memcpy_htod_async(memory, host, stream)
        cuda.memcpy_dtoh_async(target, memory, stream)
        np.asarray(host).view(np.ndarray)[0] = 9
        target.view(np.ndarray)[1] = 9
        stream.synchronize()
        memory.free()


def test_mapped_memory_is_read_and_written_by_the_device_itself(device, cuda):
    memory, host = numbers(cuda)
    seen, stream, event = cuda.pagelocked_empty(2, np.float32, mem_flags=2), cuda.Stream(1), cuda.Event()
    address = seen.base.get_device_pointer()
    assert address != seen.ctypes.data
    cuda.memcpy_htod_async(memory, host, stream)
    cuda.memcpy_dtod_async(address, int(memory), 8, stream)
    event.record(stream)
    event.synchronize()
    assert seen.tolist() == [1, 2]
    cuda.memset_d8_async(address + 4, 0, 4, stream)
    stream.synchronize()
    assert seen.tolist() == [1, 0]
    with pytest.raises(cuda.LogicError, match="exceed 8 bytes"):
        cuda.memset_d8_async(address + 4, 0, 8, stream)
    with pytest.raises(cuda.LogicError, match="not in page-locked memory that was mapped"):
        host.base.get_device_pointer()
    memory.free()


def test_mapped_memory_is_not_read_too_early():
    with misuse("the host read page-locked memory before this had happened: memset"), pycuda_context() as cuda:
        seen, stream = cuda.pagelocked_empty(2, np.float32, mem_flags=2), cuda.Stream(1)
        seen[...] = 7
        cuda.memset_d8_async(seen.base.get_device_pointer(), 0, 8, stream)
        assert np.isnan(seen).all()
        stream.synchronize()
        assert not seen.any()


def test_the_host_leaves_mapped_memory_alone_that_the_device_will_write():
    with misuse("the host wrote into page-locked memory before the device"), pycuda_context() as cuda:
        seen, stream = cuda.pagelocked_empty(2, np.float32, mem_flags=2), cuda.Stream(1)
        cuda.memset_d8_async(seen.base.get_device_pointer(), 0, 8, stream)
        seen.view(np.ndarray)[0] = 9
        stream.synchronize()


def test_mapped_memory_is_gone_when_it_is_freed():
    with misuse("was freed while memset", "failed when it ran"), pycuda_context() as cuda:
        seen, stream = cuda.pagelocked_empty(2, np.float32, mem_flags=2), cuda.Stream(1)
        address = seen.base.get_device_pointer()
        cuda.memset_d8_async(address, 0, 8, stream)
        del seen
        with pytest.raises(cuda.LogicError, match="illegal memory access"):
            stream.synchronize()


def test_another_stream_sees_old_data_unless_it_waits():
    with misuse("race: copy DtoH", "nothing puts them in order"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        answer, first, second = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1), cuda.Stream(1)
        cuda.memcpy_htod_async(memory, host, first)
        cuda.memcpy_dtoh_async(answer, memory, second)
        second.synchronize()
        assert np.isnan(answer).all()
        first.synchronize()
        memory.free()


def test_an_event_puts_streams_in_order(cuda):
    memory, host = numbers(cuda)
    answer, first, second, event = cuda.pagelocked_empty(2, np.float32), cuda.Stream(1), cuda.Stream(1), cuda.Event()
    cuda.memcpy_htod_async(memory, host, first)
    event.record(first)
    second.wait_for_event(event)
    cuda.memcpy_dtoh_async(answer, memory, second)
    second.synchronize()
    assert answer.tolist() == [1, 2] and first.is_done()
    memory.free()


def test_a_wait_of_the_host_puts_streams_in_order(cuda):
    memory, host = numbers(cuda)
    first, second = cuda.Stream(1), cuda.Stream(1)
    cuda.memcpy_htod_async(memory, host, first)
    first.synchronize()
    cuda.memset_d8_async(memory, 0, 8, second)
    cuda.Context.synchronize()
    memory.free()


def test_the_default_stream_waits_for_blocking_streams_alone():
    with misuse("race: copy DtoH"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        answer, blocking, other = np.zeros(2, np.float32), cuda.Stream(), cuda.Stream(1)
        cuda.memcpy_htod_async(memory, host, blocking)
        cuda.memcpy_dtoh(answer, memory)
        assert answer.tolist() == [1, 2]
        cuda.memset_d8_async(memory, 0, 8, other)
        cuda.memcpy_dtoh(answer, memory)
        assert answer.tolist() == [1, 2]  # not yet cleared: nothing waited for that stream
        other.synchronize()
        memory.free()


def test_a_copy_from_pageable_memory_may_arrive_late():
    with misuse("race: memset"), pycuda_context() as cuda:
        memory, other = cuda.mem_alloc(8), cuda.Stream(1)
        cuda.memcpy_htod(memory, np.ones(2, np.float32))
        cuda.memset_d8_async(memory, 0, 8, other)
        cuda.Context.synchronize()
        memory.free()


def test_an_asynchronous_copy_of_pageable_memory_waits(device, cuda):
    memory, stream = cuda.mem_alloc(8), cuda.Stream(1)
    cuda.memcpy_htod_async(memory, np.ones(2, np.float32), stream)
    assert device.timeline.waits == ["pageable copy"]
    stream.synchronize()
    memory.free()


def test_memory_is_not_freed_while_it_is_used():
    with misuse("was freed while copy HtoD of 8 bytes", "failed when it ran"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        stream = cuda.Stream(1)
        cuda.memcpy_htod_async(memory, host, stream)
        memory.free()
        with pytest.raises(cuda.LogicError, match="illegal memory access"):
            stream.synchronize()


def test_after_a_fault_nothing_works():
    with misuse("was freed while", "failed when it ran"), pycuda_context() as cuda:
        memory, host = numbers(cuda)
        stream = cuda.Stream(1)
        cuda.memcpy_htod_async(memory, host, stream)
        memory.free()
        for call in (stream.synchronize, lambda: cuda.mem_alloc(4), cuda.Context.synchronize):
            with pytest.raises(cuda.LogicError, match="illegal memory access"):
                call()
