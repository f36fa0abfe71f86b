# A FIFO between a writer and a reader that were forked.
path = REPORT + ".fifo"
os.mkfifo(path)
try:
    reader = os.fork()
    if reader == 0:
        with open(path, "rb") as fifo:
            size = len(fifo.read())
        tell(what="read", bytes=size)
        os._exit(0)
    writer = os.fork()
    if writer == 0:
        with open(path, "wb", buffering=0) as fifo:
            size = sum(fifo.write(b"z" * size) for size in (1, 10, 100, 1000, 4096, 20_000))
        moved("fifo", os.getpid(), reader, size)
        os._exit(0)
    assert os.waitpid(reader, 0)[1] == 0
    assert os.waitpid(writer, 0)[1] == 0
    tell(what="named", mechanism="fifo", name=path)
finally:
    os.unlink(path)
