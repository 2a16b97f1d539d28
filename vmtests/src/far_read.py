# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads FILE through io_uring, far behind its end.

    far_read.py FILE

Prints the result of the read, a number of bytes or an error's name, or `none` without io_uring.
"""

import ctypes
import errno
import mmap
import os
import struct
import sys

# linux/io_uring.h, and the numbers of its calls on x86_64.
SYS_SETUP, SYS_ENTER = 425, 426
RINGS, ENTRIES = 0, 0x10000000
GETEVENTS, READ = 1, 22
PARAMETERS, SUBMISSION_OFFSETS, COMPLETION_OFFSETS = 120, 40, 80
TAIL, COMPLETIONS, ARRAY = 1, 5, 6
FAR = 1 << 40

libc = ctypes.CDLL(None, use_errno=True)


def submit(ring, parameters, file, buffer):
    entries, completions = struct.unpack_from("<2I", parameters)
    submission = struct.unpack_from("<10I", parameters, SUBMISSION_OFFSETS)
    completion = struct.unpack_from("<10I", parameters, COMPLETION_OFFSETS)
    size = max(submission[ARRAY] + entries * 4, completion[COMPLETIONS] + completions * 16)
    rings = mmap.mmap(ring, size, offset=RINGS)
    requests = mmap.mmap(ring, entries * 64, offset=ENTRIES)
    read = (READ, 0, 0, file, FAR, ctypes.addressof(buffer), len(buffer))
    struct.pack_into("<BBHiQQI", requests, 0, *read)
    struct.pack_into("<I", rings, submission[ARRAY], 0)
    struct.pack_into("<I", rings, submission[TAIL], 1)
    if libc.syscall(SYS_ENTER, ring, 1, 1, GETEVENTS, None, 0) != 1:
        raise OSError(ctypes.get_errno(), "io_uring_enter")
    return struct.unpack_from("<Qi", rings, completion[COMPLETIONS])[1]


def main():
    parameters = bytearray(PARAMETERS)
    ring = libc.syscall(SYS_SETUP, 1, (ctypes.c_char * PARAMETERS).from_buffer(parameters))
    if ring < 0:
        print("none")
        return
    file = os.open(sys.argv[1], os.O_RDONLY)
    result = submit(ring, parameters, file, ctypes.create_string_buffer(mmap.PAGESIZE))
    print(errno.errorcode[-result] if result < 0 else result)


main()
