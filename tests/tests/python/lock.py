# Value and Array are shared memory with a lock, which is a semaphore in a file of its own.
def child(value, array):
    with value.get_lock():
        value.value += 1
    with array.get_lock():
        array[0] = value.value


value = multiprocessing.Value("i", 41)
array = multiprocessing.Array("i", 3)
value.get_lock().acquire()
array.get_lock().acquire()
process = multiprocessing.Process(target=child, args=(value, array))
process.start()
tell(what="woken", sender=os.getpid(), receiver=process.pid, least=2)
until(lambda: waits_at_futex(process.pid))
value.get_lock().release()
until(lambda: value.get_obj().value == 42 and waits_at_futex(process.pid))
array.get_lock().release()
process.join()
assert array[0] == 42
