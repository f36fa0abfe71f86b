# What the scripts of these tests share: how they say what they did.
import json
import os
import stat
import sys
import time
import multiprocessing
import multiprocessing.connection
import multiprocessing.util

REPORT = sys.argv[1]


def tell(**what):
    """Adds a line to the report: one write to a file opened for appending."""
    report = os.open(REPORT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(report, (json.dumps(what) + "\n").encode())
    os.close(report)


def moved(mechanism, sender, receiver, size):
    tell(what="moved", mechanism=mechanism, sender=sender, receiver=receiver, bytes=size)


# What multiprocessing's connections really write and read, by what the descriptor is.
counts = {}


def kind(descriptor):
    mode = os.fstat(descriptor).st_mode
    return "unix_stream" if stat.S_ISSOCK(mode) else "pipe"


def counted(call, way):
    def wrapper(descriptor, what):
        result = call(descriptor, what)
        size = result if way == "wrote" else len(result)
        key = (kind(descriptor), way)
        counts[key] = counts.get(key, 0) + size
        return result

    return wrapper


Connection = multiprocessing.connection.Connection
Connection._send.__defaults__ = (counted(os.write, "wrote"),)
Connection._recv.__defaults__ = (counted(os.read, "read"),)
os.register_at_fork(after_in_child=counts.clear)


def tell_counts(peer):
    """What this process exchanged, all of it with one other."""
    for (mechanism, way), size in counts.items():
        if way == "wrote":
            moved(mechanism, os.getpid(), peer, size)
        else:
            moved(mechanism, peer, os.getpid(), size)


def tell_counts_at_end(peer):
    """The same, once multiprocessing has cleared up."""
    multiprocessing.util.Finalize(None, tell_counts, args=(peer,), exitpriority=-100)


def until(condition):
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > 20:
            raise TimeoutError
        time.sleep(0.002)


def waits_at_futex(pid):
    """Whether the first thread of the process sits in futex(2) at a futex that is not private to it."""
    number = "202" if os.uname().machine == "x86_64" else "98"
    with open(f"/proc/{pid}/syscall") as line:
        words = line.read().split(" ")
    return words[0] == number and int(words[2], 16) & 128 == 0
