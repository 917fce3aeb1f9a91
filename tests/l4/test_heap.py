"""An agent's heap: one for all threads, and without large blocks."""

import json
import subprocess
import sys
import textwrap
from typing import Any

#: Tells of glibc's heaps after what an agent does: threads side by side, and large blocks that come and go.
PROGRAM = """
    import ctypes, json, os, re, tempfile, threading
    from l4.heap import MMAP_THRESHOLD, keep_heap_small

    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    libc.fclose.argtypes, libc.malloc_info.argtypes = [ctypes.c_void_p], [ctypes.c_int, ctypes.c_void_p]
    libc.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]

    def heaps_and_blocks_by_mmap():
        with tempfile.TemporaryFile() as file:
            stream = libc.fdopen(os.dup(file.fileno()), b"w")
            libc.malloc_info(0, stream)
            libc.fclose(stream)
            file.seek(0)
            told = file.read().decode()
        return told.count("<heap nr="), int(re.search('type="mmap" count="([0-9]+)"', told)[1])

    if {called}:
        keep_heap_small()
    side_by_side = threading.Barrier(4)

    def work():
        side_by_side.wait()
        block = libc.malloc(1000)
        side_by_side.wait()
        libc.free(block)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    libc.free(libc.malloc(4 * MMAP_THRESHOLD))
    heaps, before = heaps_and_blocks_by_mmap()
    block = libc.malloc(2 * MMAP_THRESHOLD)
    _, after = heaps_and_blocks_by_mmap()
    print(json.dumps({{"heaps": heaps, "by mmap": after - before}}))
"""


def run(*, called: bool) -> Any:
    program = textwrap.dedent(PROGRAM).format(called=called)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_threads_share_one_heap_and_large_blocks_are_given_back() -> None:
    assert run(called=True) == {"heaps": 1, "by mmap": 1}


def test_glibc_by_itself_would_keep_both() -> None:
    """Else this module could go."""
    told = run(called=False)
    assert told["heaps"] > 1
    assert told["by mmap"] == 0
