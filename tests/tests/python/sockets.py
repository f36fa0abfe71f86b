# A server that makes a process for each connection, and its clients, over each kind of socket that is traced.
import socket

mechanisms = sys.argv[2].split(",")
path = REPORT + ".socket"


def serve(listener, mechanism, connections):
    for _ in range(connections):
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            sums = {}
            while True:
                data = connection.recv(4000)
                if not data:
                    break
                # The client's first eight bytes are its process id.
                sums.setdefault("client", int(data[:8]) if "client" not in sums else sums["client"])
                sums["read"] = sums.get("read", 0) + len(data)
            connection.sendall(b"r" * 5000)
            moved(mechanism, sums["client"], os.getpid(), sums["read"])
            moved(mechanism, os.getpid(), sums["client"], 5000)
            os._exit(0)
        connection.close()
    for _ in range(connections):
        os.wait()
    os._exit(0)


def client(family, address, size):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        connection.sendall(b"%08d" % os.getpid() + b"c" * size)
        connection.shutdown(socket.SHUT_WR)
        got = 0
        while data := connection.recv(3000):
            got += len(data)
        assert got == 5000
    os._exit(0)


def forked(work, *arguments):
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        finally:
            os._exit(1)
    return child


def streams(mechanism, family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    address = listener.getsockname()
    children = [forked(serve, listener, mechanism, 3)]
    children += [forked(client, family, address, size) for size in (10, 1000, 50_000)]
    listener.close()
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def datagrams(mechanism):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    address = receiver.getsockname()

    def receive():
        for _ in range(6):
            data = receiver.recv(2000)
            moved(mechanism, int(data[:8]), os.getpid(), len(data))
        os._exit(0)

    def send():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for size in (1, 100, 1400):
            sender.sendto(b"%08d" % os.getpid() + b"d" * size, address)
        os._exit(0)

    children = [forked(receive), forked(send), forked(send)]
    receiver.close()
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


if "unix_stream" in mechanisms:
    streams("unix_stream", socket.AF_UNIX, path)
    os.unlink(path)
if "tcp" in mechanisms:
    streams("tcp", socket.AF_INET, ("127.0.0.1", 0))
    streams("tcp", socket.AF_INET6, ("::1", 0))
if "udp" in mechanisms:
    datagrams("udp")
