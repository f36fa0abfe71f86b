# Handlers, an ignored signal, a default action, and a real-time signal with a value.
import ctypes
import signal

library = ctypes.CDLL(None, use_errno=True)
ready, other = os.pipe()


def told(number, receiver, outcome, value=None):
    tell(what="signal", signal=signal.Signals(number).name, sender=os.getpid(), receiver=receiver,
         outcome=outcome, value=value)


receiver = os.fork()
if receiver == 0:
    seen = []
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGRTMIN):
        signal.signal(number, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.write(other, b"r")
    while True:
        time.sleep(0.002)
        # A byte for each that was seen.
        while seen:
            seen.pop(0)
            os.write(other, b"s")


def next_one():
    assert os.read(ready, 1)


next_one()
moved("pipe", receiver, os.getpid(), 4)
for number in (signal.SIGINT, signal.SIGUSR1):
    os.kill(receiver, number)
    told(number, receiver, "delivered")
    next_one()
os.kill(receiver, signal.SIGHUP)
told(signal.SIGHUP, receiver, "ignored")
library.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
assert library.sigqueue(receiver, signal.SIGRTMIN, 4711) == 0
told(signal.SIGRTMIN, receiver, "delivered", 4711)
next_one()
os.kill(receiver, signal.SIGTERM)
told(signal.SIGTERM, receiver, "delivered")
assert os.waitstatus_to_exitcode(os.waitpid(receiver, 0)[1]) == -signal.SIGTERM
