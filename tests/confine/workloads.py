"""Ordinary programs that must go on working inside a strict guest: each raises if it does not."""

from __future__ import annotations

WORKLOADS: dict[str, str] = {
    "asyncio": """
import asyncio
async def twice(n):
    await asyncio.sleep(0.001)
    return n * 2
async def main():
    loop = asyncio.get_running_loop()
    in_thread = await asyncio.to_thread(sum, range(1000))
    woken = asyncio.Event()
    loop.call_later(0.001, woken.set)
    await asyncio.wait_for(woken.wait(), 5)
    return sum(await asyncio.gather(*map(twice, range(100)))) + in_thread
assert asyncio.run(main()) == 9900 + 499500
""",
    "asyncio over a pair of sockets": """
import asyncio, socket
async def main():
    one, two = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    other_reader, other_writer = await asyncio.open_connection(sock=two)
    writer.write(b"hello\\n")
    await writer.drain()
    assert await other_reader.readline() == b"hello\\n"
    for each in (writer, other_writer):
        each.close()
        await each.wait_closed()
asyncio.run(main())
""",
    "threads": """
import threading
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as pool:
    assert sum(pool.map(lambda n: n * n, range(1000))) == 332833500
local = threading.local()
ready = threading.Barrier(4)
def wait():
    local.x = threading.get_native_id()
    ready.wait(5)
group = [threading.Thread(target=wait) for _ in range(4)]
for one in group: one.start()
for one in group: one.join()
""",
    "tempfile": """
import os, tempfile
with tempfile.TemporaryFile() as file:
    file.write(b"x")
with tempfile.NamedTemporaryFile() as file:
    assert file.name.startswith(os.getcwd())
with tempfile.TemporaryDirectory() as folder:
    open(os.path.join(folder, "x"), "w").close()
""",
    "sqlite3": """
import sqlite3
with sqlite3.connect("data.sqlite") as db:
    assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    db.execute("create table t(n integer)")
    db.executemany("insert into t values (?)", ((n,) for n in range(1000)))
db.execute("pragma wal_checkpoint(truncate)")
assert db.execute("select sum(n) from t").fetchone() == (499500,)
db.close()
""",
    "zip and tar": """
import io, os, shutil, tarfile, zipfile
open("plain.txt", "w").write("content" * 100)
with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.write("plain.txt")
zipfile.ZipFile("a.zip").extractall("from-zip")
with tarfile.open("a.tar.gz", "w:gz") as archive:
    archive.add("plain.txt")
with tarfile.open("a.tar.gz") as archive:
    archive.extractall("from-tar", filter="data")
assert open("from-tar/plain.txt").read() == open("from-zip/plain.txt").read()
shutil.make_archive("whole", "zip", "from-tar")
""",
    "copying": """
import os, shutil
open("source", "w").write("x")
shutil.copy2("source", "copy"); shutil.copyfile("source", "second"); shutil.move("second", "third")
os.makedirs("tree/a/b"); shutil.copytree("tree", "tree2"); os.rename("tree2/a", "tree2/c"); shutil.rmtree("tree2")
os.link("copy", "hard"); os.symlink("copy", "soft"); assert open("soft").read() == "x"
os.replace("third", "copy"); os.truncate("copy", 0); assert os.stat("copy").st_size == 0
""",
    "mmap": """
import mmap
with open("mapped", "wb") as file: file.truncate(1 << 20)
with open("mapped", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
    view[:5] = b"hello"
    view.flush()
assert open("mapped", "rb").read(5) == b"hello"
shared = mmap.mmap(-1, 1 << 20); shared[0] = 7; shared.close()
""",
    "numpy": """
import numpy as np
rng = np.random.default_rng(7)
a = rng.normal(size=(200, 200))
assert np.allclose(np.linalg.inv(a) @ a, np.eye(200))
values, vectors = np.linalg.eigh(a @ a.T)
np.linalg.svd(a); np.fft.fft(a)
np.save("a.npy", a)
assert np.array_equal(np.load("a.npy", mmap_mode="r"), a)
""",
    "pandas": """
import pandas as pd
frame = pd.DataFrame({"k": list("abab"), "v": [1, 2, 3, 4],
                      "t": pd.date_range("2026-01-01", periods=4, tz="Europe/Paris")})
frame.to_csv("f.csv", index=False)
again = pd.read_csv("f.csv", parse_dates=["t"])
assert again.groupby("k").v.sum().to_dict() == {"a": 4, "b": 6}
frame.to_pickle("f.pkl"); pd.read_pickle("f.pkl")
""",
    "json, decimal, zoneinfo, locale": """
import datetime, decimal, json, locale, zoneinfo
assert json.loads(json.dumps({"x": [1, None, "\\u00e9"]}))["x"][2] == "\\u00e9"
assert decimal.Decimal(2).sqrt() > decimal.Decimal("1.41")
assert datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")).utcoffset().seconds == 9 * 3600
locale.setlocale(locale.LC_ALL, ""); datetime.datetime.now().astimezone().strftime("%c %Z")
""",
    "platform and account": """
import getpass, mimetypes, os, platform, sysconfig
platform.platform(); platform.uname(); platform.freedesktop_os_release()
assert getpass.getuser() == "guest" and os.path.expanduser("~") == os.getcwd()
assert mimetypes.guess_type("a.html")[0] == "text/html"
assert os.cpu_count() and os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
sysconfig.get_paths(); os.sched_getaffinity(0); os.getloadavg; os.times(); os.statvfs(".")
""",
    "uuid, secrets, random, hashlib, ssl": """
import hashlib, random, secrets, ssl, uuid
uuid.uuid4(); uuid.uuid1(); secrets.token_bytes(); random.random(); hashlib.blake2b(b"x").digest()
context = ssl.create_default_context()
""",
    "signals and timers": """
import faulthandler, os, signal, time, threading
seen = []
signal.signal(signal.SIGALRM, lambda *a: seen.append("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
signal.signal(signal.SIGUSR1, lambda *a: seen.append("usr1"))
os.kill(os.getpid(), signal.SIGUSR1); signal.raise_signal(signal.SIGUSR1)
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
assert seen == ["alarm", "usr1", "usr1", "usr1"], seen
with open("trace", "w") as file:
    faulthandler.dump_traceback(file, all_threads=True)
    faulthandler.dump_traceback_later(60, file=file); faulthandler.cancel_dump_traceback_later()
    faulthandler.enable(file); faulthandler.disable()
assert signal.sigtimedwait([signal.SIGUSR2], 0.001) is None
""",
    "pipes, polling, eventfd, timerfd": """
import os, select
r, w = os.pipe(); os.write(w, b"x")
poll = select.poll(); poll.register(r, select.POLLIN); assert poll.poll(1000)
with select.epoll() as epoll: epoll.register(r, select.EPOLLIN); assert epoll.poll(1)
assert select.select([r], [], [], 1)[0]
fd = os.eventfd(1); assert os.eventfd_read(fd) == 1
os.set_blocking(r, False); os.set_inheritable(r, False); assert not os.isatty(r)
""",
    "locks on files": """
import fcntl
with open("lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(file, fcntl.LOCK_UN)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.lockf(file, fcntl.LOCK_UN)
""",
    "limits of one's own": """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft // 2, hard)); resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
resource.getrusage(resource.RUSAGE_SELF)
""",
    "ctypes": """
import ctypes
libc = ctypes.CDLL(None)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
libc.qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
assert list(numbers) == [1, 2, 3, 4, 5] and libc.getpid() > 0
""",
    "multiprocessing between threads": """
import multiprocessing, multiprocessing.pool, threading
with multiprocessing.pool.ThreadPool(4) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
for context in map(multiprocessing.get_context, multiprocessing.get_all_start_methods()):
    lock = context.Lock()
    with lock: assert not lock.acquire(timeout=0.001)
    again = context.RLock()
    with again, again: pass
    try: again.release()
    except AssertionError: pass
    else: raise SystemExit("released what it did not hold")
    bounded = context.BoundedSemaphore(2)
    bounded.acquire(); bounded.release()
    try: bounded.release()
    except ValueError: pass
    else: raise SystemExit("released too often")
    event = context.Event(); threading.Timer(0.001, event.set).start(); assert event.wait(5)
    queue = context.Queue(); queue.put({"x": 1}); assert queue.get(timeout=5) == {"x": 1}
    queue.close(); queue.join_thread()
""",
    "modules imported late": """
import importlib, pkgutil, sys
skipped = {"antigravity", "this", "idlelib", "turtledemo", "__phello__", "msilib", "nt", "winreg", "winsound", "msvcrt",
           "_winapi", "lib2to3", "tkinter", "turtle", "asyncio.windows_events"}
missing = []
for name in sorted(sys.stdlib_module_names - skipped):
    if name.startswith("_"): continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass  # not built into this interpreter
    except OSError as problem:
        missing.append((name, str(problem)))
assert not missing, missing
""",
}

NOT_GIVEN: dict[str, str] = {
    "processes": """
import multiprocessing
multiprocessing.get_context("fork").Process(target=print).start()
""",
    "programs": """
import subprocess
subprocess.run(["true"])
""",
    "sockets": """
import socket
socket.create_connection(("127.0.0.1", 1))
""",
    "pipes with a name": """
import os
os.mkfifo("fifo")
""",
    "values of multiprocessing": """
import multiprocessing
multiprocessing.Value("i", 3)
""",
    "named shared memory": """
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=1000)
""",
}
