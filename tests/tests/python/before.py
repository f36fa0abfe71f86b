# A process waits at a semaphore until the other one has seen the end of its input.
def child(semaphore):
    semaphore.acquire()


semaphore = multiprocessing.Semaphore(0)
process = multiprocessing.Process(target=child, args=(semaphore,))
process.start()
until(lambda: waits_at_futex(process.pid))
tell(what="waits", sender=os.getpid(), receiver=process.pid)
sys.stdin.read()
semaphore.release()
process.join()
