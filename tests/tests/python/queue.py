# Queue is a pipe, and semaphores in shared memory: one for its size, which the producer waits at here.
def producer(queue):
    for number in range(5):
        queue.put("x" * 1000 * number)
    queue.close()
    queue.join_thread()
    tell_counts(os.getppid())


queue = multiprocessing.Queue(maxsize=1)
process = multiprocessing.Process(target=producer, args=(queue,))
process.start()
tell(what="woken", sender=os.getpid(), receiver=process.pid, least=4)
for number in range(5):
    if number < 4:
        until(lambda: waits_at_futex(process.pid))
    assert queue.get() == "x" * 1000 * number
process.join()
