# Manager is a server process at a unix socket, to which every client connects; it tells its address through a pipe.
def client(shared, server):
    tell_counts_at_end(server)
    for number in range(10):
        shared[f"{os.getpid()} {number}"] = "x" * number


manager = multiprocessing.Manager()
server = manager._process.pid
shared = manager.dict()
clients = [multiprocessing.Process(target=client, args=(shared, server)) for _ in range(2)]
for process in clients:
    process.start()
for process in clients:
    process.join()
assert len(shared) == 20
tell_counts_at_end(server)
# The server answers to this twice, the second time perhaps to nobody.
tell(what="unread", sender=server)
manager.shutdown()
