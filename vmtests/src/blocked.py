# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks readers of the module's files on memory that never comes.

    blocked.py WAY NAMESPACES RULES FILE...

WAY is `fuse`, a page of a file whose server never answers, or `userfaultfd`, a page whose fault
nobody handles. A process of its own reads each FILE, a path below /proc/net/trafstat, into such a
page; where FILE begins with `+`, it writes from there instead. If NAMESPACES is not 0, as many
network namespaces are made. RULES are restored in each, a process takes the next FILE, and all rules
of FORWARD are deleted again, one after the other, which must be quick.

Prints `server PID`, `reader PID FILE` once that one is blocked, and `ready` or `error FILE TEXT`;
runs until killed.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import struct
import subprocess
import sys
import time

PATIENCE = 60
LIMIT = 5
PAGE = mmap.PAGESIZE

MOUNT_POINT = "/media"
MS_NOSUID, MS_NODEV = 2, 4
CLONE_NEWNET = 0x40000000

# Requests of linux/fuse.h, and an inode's modes.
LOOKUP, FORGET, GETATTR, OPEN, READ, INTERRUPT, INIT, OPENDIR, BATCH_FORGET = 1, 2, 3, 14, 15, 36, 26, 27, 42
FOLDER, FILE = 0o40777, 0o100666
ENOSYS = 38

# linux/userfaultfd.h, and the number of userfaultfd(2) on x86_64.
SYS_USERFAULTFD = 323
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
UFFD_API, UFFDIO_REGISTER_MODE_MISSING = 0xAA, 1

libc = ctypes.CDLL(None, use_errno=True)
for call in libc.read, libc.write:
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]


def check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def attributes(mode):
    return struct.pack("<6Q10I", 2, PAGE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)


def serve(device):
    """Answers everything but READ."""
    root = 1
    while True:
        request = os.read(device, 0x30000)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        error, answer = 0, b""
        if operation == INIT:
            answer = struct.pack("<IIIIHHIIHHI7I", 7, 31, PAGE, 0, 12, 10, 0x20000, 1, 32, 0, 0, *[0] * 7)
        elif operation == LOOKUP:
            answer = struct.pack("<QQQQII", 2, 0, 1000, 1000, 0, 0) + attributes(FILE)
        elif operation == GETATTR:
            answer = struct.pack("<QII", 1000, 0, 0) + attributes(FOLDER if node == root else FILE)
        elif operation in (OPEN, OPENDIR):
            answer = struct.pack("<QII", 1, 0, 0)
        elif operation in (READ, FORGET, BATCH_FORGET, INTERRUPT):
            continue
        else:
            error = -ENOSYS
        os.write(device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)


def fuse_page():
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    check(libc.mount(b"x", MOUNT_POINT.encode(), b"fuse", MS_NOSUID | MS_NODEV, options.encode()), "mount")
    server = os.fork()
    if server == 0:
        serve(device)
    print("server", server, flush=True)
    # Only the server keeps the connection up.
    os.close(device)
    file = os.open(f"{MOUNT_POINT}/page", os.O_RDWR)
    return mmap.mmap(file, PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def unhandled_page():
    fault = check(libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC), "userfaultfd")
    fcntl.ioctl(fault, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, 0, 0)))
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    missing = struct.pack("4Q", address(page), PAGE, UFFDIO_REGISTER_MODE_MISSING, 0)
    fcntl.ioctl(fault, UFFDIO_REGISTER, bytearray(missing))
    return page


def address(page):
    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def block(file, page):
    writes = file.startswith("+")
    path = f"/proc/self/net/trafstat/{file.lstrip('+')}"
    descriptor = os.open(path, os.O_WRONLY if writes else os.O_RDONLY)
    page = page or unhandled_page()
    start = address(page)
    if writes:
        check(libc.write(descriptor, start, 10), path)
    else:
        check(libc.read(descriptor, start, PAGE), path)


def fork(work, file):
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print("error", file, error, flush=True)
        os._exit(1)


def start_reader(file, page):
    reader = fork(lambda: block(file, page), file)
    deadline, seen = time.monotonic() + PATIENCE, 0
    # A read or write that is not running waits for its page.
    while seen < 2:
        if os.waitpid(reader, os.WNOHANG) != (0, 0) or time.monotonic() > deadline:
            raise TimeoutError(f"the reader of {file} is not blocked")
        with open(f"/proc/{reader}/syscall") as call:
            seen = seen + 1 if call.read().split()[0] in ("0", "1") else 0
        time.sleep(0.02)
    print("reader", reader, file, flush=True)


def read_in_namespace(file, page, rules):
    check(libc.unshare(CLONE_NEWNET), "unshare")
    restore = ["iptables-nft-restore", "--noflush"]
    subprocess.run(restore, input=rules.encode(), check=True)
    start_reader(file, page)
    deleted = "".join(
        f"*filter\n-D{rule[2:]}\nCOMMIT\n" for rule in rules.splitlines() if rule.startswith("-A FORWARD")
    )
    deletion = subprocess.Popen(restore, stdin=subprocess.PIPE)
    deletion.stdin.write(deleted.encode())
    deletion.stdin.close()
    # One that is late may never end, not even if it is killed.
    if deletion.wait(LIMIT):
        raise ChildProcessError(f"deleting rules failed with {deletion.returncode}")


def main():
    way, namespaces, rules, *files = sys.argv[1:]
    namespaces = int(namespaces)
    page = fuse_page() if way == "fuse" else None
    for number in range(namespaces):
        file = files[number % len(files)]
        maker = fork(lambda: read_in_namespace(file, page, rules), file)
        if os.waitpid(maker, 0)[1] != 0:
            sys.exit(f"namespace {number} was not made")
    if not namespaces:
        for file in files:
            start_reader(file, page)
    print("ready", flush=True)
    while True:
        signal.pause()


main()
