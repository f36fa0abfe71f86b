# Pipe() is a pair of unix sockets; Pipe(duplex=False) is a pipe.
def child(both, one):
    for number in range(20):
        text = both.recv()
        both.send((number, len(text)))
    both.send_bytes(b"y" * 100_000)
    one.send("done")
    tell_counts(os.getppid())


ours, theirs = multiprocessing.Pipe()
reader, writer = multiprocessing.Pipe(duplex=False)
process = multiprocessing.Process(target=child, args=(theirs, writer))
process.start()
for number in range(20):
    ours.send("x" * 1000 * number)
    assert ours.recv() == (number, 1000 * number)
assert len(ours.recv_bytes()) == 100_000
assert reader.recv() == "done"
process.join()
