"""An MCP server for tests. It behaves well by default, and its arguments and tools make it misbehave. Uses only the
standard library."""

import array
import ctypes
import errno
import json
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time

FLAGS = set(sys.argv[1:])
OUT = sys.stdout.buffer
LOCK = threading.Lock()
WAITING = {}
ANSWERS = {}


def raw(data):
    with LOCK:
        OUT.write(data)
        OUT.flush()


def show(message):
    """Prints a message, like a server that logs its messages to standard output."""
    raw(json.dumps(message, indent=2).encode() + b"\n")


def say(**message):
    if "--shows-sent" in FLAGS:
        show({"jsonrpc": "2.0", **message})
    indent = 2 if "--indents" in FLAGS else None
    raw(json.dumps({"jsonrpc": "2.0", **message}, indent=indent).encode() + b"\n")


def text(value):
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


def orphan(seconds, env):
    """Starts a process outside the group and session of this one, whose parent has exited. Without `env`, it
    inherits this process's environment."""
    code = (
        "import os,sys,time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "print(os.getpid(), flush=True); os.close(1)\n"
        f"time.sleep({seconds})\n"
    )
    found = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True)
    return int(found.stdout)


# Code of a process that forks and exits repeatedly, so that its process id changes all the time. It ends after two
# minutes.
RUNNER = r"""
import os, time
end = time.time() + 120
while time.time() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


# Code that tries to act on another process with the same user id. It returns which attempts succeeded.
REACH = r"""
import ctypes, json, mmap, os, resource, socket, struct
def reach(pid, line, signal):
    libc = ctypes.CDLL(None, use_errno=True)
    def write():
        with open(f"/proc/{pid}/fd/1", "wb", buffering=0) as output:
            output.write(line.encode())
    def environment():
        assert open(f"/proc/{pid}/environ", "rb").read()
    def memory():
        start = open(f"/proc/{pid}/maps").readline().split("-")[0]
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(int(start, 16))
            assert memory.read(4)
    def trace():
        assert libc.ptrace(0x4206, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())
        libc.ptrace(17, pid, 0, 0)
    def kill():
        os.kill(pid, signal)
    def limit():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    def scheduler():
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    def affinity():
        os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    def attributes():
        # sched_setattr with SCHED_IDLE
        number = {"x86_64": 314, "aarch64": 274}[os.uname().machine]
        given = struct.pack("IIQiIQQQ", 48, os.SCHED_IDLE, 0, 0, 0, 0, 0, 0)
        assert libc.syscall(number, pid, given, 0) == 0, os.strerror(ctypes.get_errno())
    def priority():
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    def io_priority():
        number = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
        assert libc.syscall(number, 1, pid, 3 << 13) == 0, os.strerror(ctypes.get_errno())
    def old_call():
        # Calls setpriority by its number for 32-bit programs, which 64-bit programs can also use.
        code = struct.pack("<cBIBIBIBIHcc", b"\x53", 0xb8, 97, 0xbb, 0, 0xb9, pid, 0xba, 19, 0x80cd, b"\x5b", b"\xc3")
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        assert result == 0, os.strerror(-result)
    def own():
        # A process must be able to change its own limits and priority.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE) == (soft, hard)
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, os.nice(1))
        # It must also be able to reach its own processes, and to move files between directories.
        child = os.fork()
        if child == 0:
            os.pause() if hasattr(os, "pause") else __import__("time").sleep(1000)
        assert open(f"/proc/{child}/environ", "rb").read()
        os.kill(child, 9)
        assert os.waitpid(child, 0)[1] == 9
        place = __import__("tempfile").mkdtemp()
        for name in ("a", "b"):
            os.mkdir(f"{place}/{name}")
        open(f"{place}/a/x", "w").close()
        os.rename(f"{place}/a/x", f"{place}/b/x")
        os.link(f"{place}/b/x", f"{place}/a/y")
        __import__("shutil").rmtree(place)
    found = {}
    for attempt in (own, write, environment, memory, trace, limit, scheduler, affinity, attributes, priority, io_priority, old_call, kill):
        try:
            attempt()
            found[attempt.__name__] = "done"
        except Exception as error:
            found[attempt.__name__] = repr(error)
    return found
"""


def descendant(code, is_orphan):
    """Runs code in a process that this one starts, and returns its output. If the process is an orphan, its parent
    has exited."""
    leave = "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n" if is_orphan else ""
    return subprocess.run([sys.executable, "-c", leave + code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True).stdout


def is_sound(message):
    """Whether a server that uses an SDK would accept this message. SDKs silently drop all other messages. With
    `--strict`, this server does the same."""
    params = message.get("params", {})
    try:
        json.dumps(message, ensure_ascii=False).encode()
        meta = params.get("_meta", {})
        token, task = meta.get("progressToken", ""), meta.get("io.modelcontextprotocol/related-task", {"taskId": ""})
        meta = message.get("result", {}).get("_meta", {}).get("x")
        task["taskId"].encode()
    except (UnicodeEncodeError, AttributeError, TypeError, KeyError):
        return False
    known = {"jsonrpc", "id", "method", "params", "result", "error"}
    return set(message) <= known and isinstance(token, (str, int)) and isinstance(message.get("result", {}), dict)


def ask(method, params, number=None):
    number = number or f"ask-{len(WAITING)}-{os.getpid()}"
    WAITING[number] = threading.Event()
    say(id=number, method=method, **({} if params is None else {"params": params}))
    WAITING[number].wait(20)
    return ANSWERS.get(number)


HELD = []
KEPT = []


def map_pages(count):
    """Maps this many single pages. The kernel does not merge mappings with different protection."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    kinds = [mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE]
    KEPT.extend(mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=kinds[n % 2]) for n in range(count))


SLEEPING = []
BLAMED = []
VISITS = {}
GREETED = threading.Event()


def call(message):
    params, number = message["params"], message["id"]
    name, given = params["name"], params.get("arguments", {})
    token = params.get("_meta", {}).get("progressToken")
    if name == "echo":
        return text(given)
    if name == "count":
        return text(str(len(given["x"])))
    if name == "params":
        return text(params)
    if name == "sleep":
        SLEEPING.append(number)
        time.sleep(given["seconds"])
        return text("slept")
    if name == "hold":
        # Responds to all waiting calls when there are enough of them, to the last one first.
        with LOCK:
            HELD.append((number, given["value"]))
            ready = HELD[:] if len(HELD) >= given["count"] else []
            if ready:
                HELD.clear()
        for one, value in reversed(ready):
            say(id=one, result=text(value))
        return None
    if name == "visit":
        # Refuses the first calls, with the URL of a page that the user must visit (2025-11-25, URL mode).
        if VISITS.get(given["url"], 0) == given.get("refusals", 1):
            return text("visited")
        VISITS[given["url"]] = VISITS.get(given["url"], 0) + 1
        entry = {"mode": "url", "elicitationId": "e-1", "url": given["url"], "message": "Sign in."}
        say(id=number, error={"code": -32042, "message": "Visit first.", "data": {"elicitations": [entry]}})
        return None
    if name == "fail":
        say(id=number, error=given)
        return None
    if name == "crash":
        os._exit(3)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "junk":
        raw(b"Listening on port 3000\n{\"not\": \"rpc\"}\n[1,2]\nnull\n\n\x1b[32mok\x1b[0m\n{\"jsonrpc\":\"2.0\",\n")
        return text("after junk")
    if name == "raw":
        # Writes any text. {ID} stands for the id of this call, and {ID-1} for the id of the call before it.
        line = given["text"].replace("{ID}", str(number)).replace("{ID-1}", str(number - 1))
        raw(line.encode(given.get("encoding", "utf-8")) + b"\n")
        return None
    if name == "repeat":
        # Writes a long line that repeats one piece of text.
        raw(given["start"].encode() + given["piece"].encode() * given["count"] + b"\n")
        return text("repeated")
    if name == "half":
        raw(b'{"jsonrpc":"2.0","id":' + str(number).encode() + b',"result":{"half":')
        os._exit(0)
    if name == "utf8":
        raw(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"\xff\xfe\xc3"}}\n')
        return text("after invalid UTF-8")
    if name == "stderr":
        for _ in range(given["mib"]):
            sys.stderr.write(("e" * 1023 + "\n") * 1024)
        sys.stderr.write("x" * (1 << 20))
        sys.stderr.flush()
        return text("after stderr")
    if name == "keep":
        # Allocates memory and keeps it.
        KEPT.append(b"k" * (given["mib"] << 20))
        return text("kept")
    if name == "big":
        time.sleep(given.get("pause", 0))
        return text("b" * given["bytes"])
    if name == "orphan":
        return text(str(orphan(given["seconds"], given.get("env", {} if given.get("bare") else None))))
    if name == "reach":
        code = f"{REACH}\nprint(json.dumps(reach({given['pid']}, {given.get('line', '')!r}, {given['signal']})))"
        if given["by"] == "itself":
            scope = {}
            exec(REACH, scope)
            return text(scope["reach"](given["pid"], given.get("line", ""), given["signal"]))
        return text(descendant(code, given["by"] == "orphan").decode())
    if name == "grow":
        def grow():
            time.sleep(given["after"])
            for _ in range(given["mib"]):
                KEPT.append(b"k" * (1 << 20))
                time.sleep(0.002)
        if not given.get("forks"):
            threading.Thread(target=grow).start()
        elif os.fork() == 0:
            grow()
            signal.pause()
        return text("grows")
    if name == "hide":
        # Allocates memory in an unnamed file. With `behind`, this many other files are opened first.
        KEPT.extend(open(os.devnull) for _ in range(given.get("behind", 0)))
        file = os.memfd_create("hidden")
        for _ in range(given["mib"]):
            os.write(file, bytes(1 << 20))
        return text("hidden")
    if name == "hide mapped":
        # Allocates shared memory without a file, of which the kernel then counts nothing as memory of this process. With
        # `behind`, this many other mappings are listed first.
        hidden = [mmap.mmap(-1, 4 << 20) for _ in range(given["mib"] // 4)]
        map_pages(given.get("behind", 0))
        for mapping in hidden:
            mapping.write(bytes(4 << 20))
            mapping.madvise(mmap.MADV_DONTNEED)
        KEPT.append(hidden)
        return text("hidden")
    if name == "map pages":
        map_pages(given["count"])
        return text("mapped")
    if name == "map unused":
        # Shared memory of which hardly any page exists.
        KEPT.append(mmap.mmap(-1, given["mib"] << 20))
        return text("mapped")
    if name == "open":
        # Has as many open files and threads as some ordinary servers.
        KEPT.extend(open(os.devnull) for _ in range(given["files"]))
        for _ in range(given["threads"]):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        return text("opened")
    if name == "map":
        # Reads one byte for each 2 MiB of a large mapping. Each of them takes a page table of 4 KiB, but no other memory.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        KEPT.append(mmap.mmap(-1, given["gib"] << 30, flags=flags))
        KEPT[-1].madvise(mmap.MADV_NOHUGEPAGE)
        for place in range(0, given["gib"] << 30, 2 << 20):
            KEPT[-1][place]
            if place % (1 << 30) == 0:
                time.sleep(0.002)
        return text("mapped")
    if name == "hide well":
        # Allocates memory in files that exist only in messages that no process receives. The wrapper cannot find these.
        pair = socket.socketpair()
        KEPT.append(pair)
        for _ in range(given["mib"] // 4):
            file = os.memfd_create("hidden")
            os.write(file, bytes(4 << 20))
            time.sleep(given.get("pause", 0))
            pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])
            os.close(file)
        return text("hidden")
    if name == "fork":
        # Starts workers that share the memory of this process.
        for _ in range(given["count"]):
            if os.fork() == 0:
                while True:
                    signal.pause()
        return text("forked")
    if name == "write":
        # Workers that share the memory of this process write to all of it at the same moment.
        KEPT.append(bytearray(given["mib"] << 20))
        begin, go = os.pipe()
        for _ in range(given["count"]):
            if os.fork() == 0:
                os.close(go)
                os.read(begin, 1)
                for page in range(0, given["mib"] << 20, 4096):
                    KEPT[-1][page] = 1
                while True:
                    signal.pause()
        time.sleep(given["after"])
        os.close(go)
        return text("written")
    if name == "fly":
        # Sends files that are never received. The kernel counts them for the user id.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        files = array.array("i", [os.open(os.devnull, os.O_RDONLY)] * 253)
        sent = 0
        while True:
            pair = socket.socketpair()
            pair[0].setblocking(False)
            KEPT.append(pair)
            try:
                while True:
                    pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
                    sent += len(files)
            except BlockingIOError:
                pass
            except OSError as error:
                return text(f"{sent} {errno.errorcode[error.errno]}")
    if name == "watch":
        threading.Thread(target=watch, args=(given["how"],), daemon=True).start()
        return text("watches")
    if name == "undumpable":
        # Other processes can no longer inspect this process, as is usual for browsers.
        return text(str(ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)))
    if name == "borrow":
        # Gets the output and the standard error of another server, and writes to both for as long as they are
        # read.
        door = socket.socket(socket.AF_UNIX)
        door.bind(given["path"])
        door.listen()
        threading.Thread(target=borrow, args=(door,), daemon=True).start()
        return text("ready")
    if name == "lend":
        with socket.socket(socket.AF_UNIX) as way:
            way.connect(given["path"])
            socket.send_fds(way, [b"x"], [1, 2])
        return text("lent")
    if name == "borrowed":
        return text(BORROWED)
    if name == "breed":
        # Starts a process that forks forever. Each new process does the same, and leaves its group and session.
        code = "import os\nwhile True:\n  try: os.fork(); os.setsid()\n  except OSError: pass\n"
        subprocess.Popen([sys.executable, "-c", code], env={"MARK": given["mark"]}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return text("breeds")
    if name == "runner":
        subprocess.Popen([sys.executable, "-c", RUNNER, given["mark"]], env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return text("runs")
    if name == "bare worker":
        # Starts a process in the same way as `setsid env -i`.
        return text(str(subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True).pid))
    if name == "workers":
        return text([subprocess.Popen(["sleep", "1000"]).pid for _ in range(given["count"])])
    if name == "progress":
        for step in range(given["steps"]):
            say(method="notifications/progress", params={"progressToken": token, "progress": step})
            time.sleep(given.get("pause", 0))
        return text("done")
    if name == "log":
        for step in range(given["lines"]):
            say(method="notifications/message", params={"level": "info", "data": f"line {step}" + "." * given.get("padding", 0)})
            time.sleep(given.get("pause", 0))
        return text("logged")
    if name == "changed":
        say(method="notifications/tools/list_changed")
        return text("announced")
    if name == "ask":
        if given.get("id") == "sleeping":
            given["id"] = SLEEPING[-1]
        params = {"x": "x" * given["size"]} if "size" in given else given.get("params", {})
        time.sleep(given.get("pause", 0))
        return text(ask(given["method"], params, given.get("id")))
    if name == "self":
        return text({"pid": os.getpid(), "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd()})
    if name == "close":
        os.close(1)
        time.sleep(60)
    if name == "deaf":
        # Stops the main thread from reading.
        FLAGS.add("--deaf")
        return text("deaf now")
    if name == "odd":
        # The result has unknown members, and numbers that a floating-point number cannot hold.
        body = b'{"jsonrpc": "2.0", "id": %d, "result": {"futureKey": {"a" : 1.0, "big": 12345678901234567890123, "e": 1E400}, "x" : [1 , 2], "s": "\\u00e9\\ud83d\\ude00"} }\n'
        raw(body % number)
        return None
    if name == "double":
        raw(b'{"jsonrpc":"2.0","id":%d,"id":%d,"result":{}}\n' % (number + 1, number))
        raw(b'{"jsonrpc":"2.0","ID":%d,"id":%d,"result":{}}\n' % (number + 1, number))
        return text("answered once")
    raise KeyError(name)


BORROWED = []


def watch(how):
    """Uses up the epoll watches of the user id, and takes each one that becomes free (with "spare", leaves four free). Needs few open files, because an
    instance can watch a file under each number that the file has ever had."""
    if how == "undumpable":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    if how == "threads" and os.fork():
        return
    epoll, way = select.epoll(), socket.socketpair()
    spare, taken = select.epoll(), 0
    with open("/proc/sys/fs/epoll/max_user_watches") as text:
        most = int(text.read())
    for file in [os.eventfd(0) for _ in range(4)]:
        spare.register(file)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for _ in range(limit // 4):
        file = os.eventfd(0)
        for number in range(limit // 2, limit):
            os.dup2(file, number)
            if taken == most - 250 and how == "call":
                # A waiting system call keeps the instance, whose number is closed. The remaining watches are too few to be noticed.
                poll = select.poll()
                poll.register(epoll, 0)
                threading.Thread(target=poll.poll, daemon=True).start()
                time.sleep(0.3)
                epoll.close()
                epoll = select.epoll()
            while True:
                try:
                    epoll.register(number)
                    taken += 1
                    break
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                if how == "sent" and epoll not in KEPT:
                    socket.send_fds(way[0], [b"x"], [epoll.fileno()])
                    epoll.close()
                    epoll = select.epoll()
                    KEPT.append(epoll)
                if how == "chain":
                    # Each process passes its files on to the next one, and exits.
                    if os.fork() == 0:
                        while os.fork() == 0:
                            time.sleep(0.001)
                        os._exit(0)
                    return epoll.close()
                if how == "threads":
                    # Each thread starts the next one and exits. The main thread has a separate table of files, without theirs.
                    threading.Thread(target=link).start()
                    ctypes.CDLL(None).unshare(0x400)
                    epoll.close()
                    time.sleep(1000)
                if how == "spare":
                    spare.close()
                    return KEPT.append(epoll)
                time.sleep(0.001)
            os.close(number)


def link():
    while True:
        try:
            return threading.Thread(target=link).start()
        except RuntimeError:
            time.sleep(0.001)


def borrow(door):
    way, _ = door.accept()
    files = socket.recv_fds(way, 1, 2)[1]

    def write(file):
        try:
            while True:
                os.write(file, b"borrowed\n")
                time.sleep(0.001)
        except OSError as error:
            BORROWED.append(errno.errorcode[error.errno])

    for file in files:
        threading.Thread(target=write, args=(file,), daemon=True).start()
    BORROWED.append("writes")


def run(message):
    try:
        result = call(message)
    except Exception as error:
        return say(id=message["id"], error={"code": -32000, "message": repr(error)})
    if result is not None:
        say(id=message["id"], result=result)


def late(message):
    """Waits until the session begins, and then responds to a ping in two pieces. If no session begins within
    1.5 s, responds in one piece."""
    if not GREETED.wait(1.5):
        return say(id=message["id"], result={})
    time.sleep(0.3)
    line = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode() + b"\n"
    with LOCK:
        for piece in (line[:20], line[20:]):
            OUT.write(piece)
            OUT.flush()
            time.sleep(0.1)


def ping(message):
    if "--refuses-ping" in FLAGS:
        return say(id=message["id"], error={"code": -32601, "message": "greet me first"})
    if "--late-ping" in FLAGS:
        return threading.Thread(target=late, args=(message,), daemon=True).start()
    if "--ignores-ping" not in FLAGS:
        say(id=message["id"], result={})


def initialize(message):
    GREETED.set()
    if message["params"].get("clientInfo", {}).get("name") == "killer":
        os._exit(3)
    if "--never-answers" in FLAGS:
        return
    if "--banner" in FLAGS:
        raw(b"Loading model ... ")
    if "--nameless-refusal" in FLAGS:
        return say(id=None, error={"code": -32600, "message": "cannot read this"})
    if "--late-refusal" in FLAGS or "--late-nonsense" in FLAGS:
        time.sleep(1)
    if "--late-nonsense" in FLAGS:
        return raw(b'{"jsonrpc":"2.0","id":%d,"result":{"x":NaN}}\n' % message["id"])
    if "--refuses" in FLAGS or "--late-refusal" in FLAGS:
        return say(id=message["id"], error={"code": -32602, "message": "refused on purpose"})
    wanted = message["params"]["protocolVersion"]
    version = wanted if wanted in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25") else "2025-11-25"
    capabilities = {"tools": {"listChanged": True}, "logging": {}} if "--rich" in FLAGS else {"tools": {}}
    if "--tells-methods" in FLAGS:
        capabilities["resources"] = {"subscribe": True}
    result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": {"name": "test child", "version": str(os.getpid())}}
    say(id=message["id"], result=result)


def main():
    if "--wordy" in FLAGS:
        sys.stderr.write("".join(f"banner line {number}\n" for number in range(1, 21)))
        sys.stderr.flush()
    if "--dies" in FLAGS:
        sys.exit(7)
    if "--ignores-sigterm" in FLAGS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_first = True
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "--shows-received" in FLAGS:
            show(message)
        method = message.get("method")
        if "--tells-methods" in FLAGS:
            level = " with a log level" if "logLevel" in json.dumps(message) else ""
            sys.stderr.write(f"asked {method}{level}\n")
            sys.stderr.flush()
        if "--strict" in FLAGS and not is_sound(message):
            continue
        if is_first and method != "initialize" and "--picky" in FLAGS:
            sys.exit(1)
        is_first = False
        if method == "ping" and "--tells-pings" in FLAGS:
            sys.stderr.write("got a ping\n")
            sys.stderr.flush()
        if method is None:
            ANSWERS[message["id"]] = message.get("result", message.get("error"))
            if message["id"] in WAITING:
                WAITING[message["id"]].set()
        elif "id" not in message:
            BLAMED.extend(["late"] if "--blames-notifications" in FLAGS else [])
            sys.stderr.write(f"notified {line.decode().strip()}\n")
            sys.stderr.flush()
        elif method == "initialize":
            initialize(message)
        elif "--greets-at-once" in FLAGS and not GREETED.is_set():
            initialize({"params": {"protocolVersion": "2025-11-25"}, **message})
        elif method == "ping":
            ping(message)
        elif method == "tools/call":
            while BLAMED:
                # The error about a notification is sent after the next call has arrived.
                say(id=None, error={"code": -32600, "message": f"I did not expect that {BLAMED.pop()} notification"})
            threading.Thread(target=run, args=(message,), daemon=True).start()
            time.sleep(0.02 if message["params"]["name"] == "deaf" else 0)
        elif method == "logging/setLevel" and "--never-sets-levels" in FLAGS:
            pass
        elif method == "resources/subscribe" and message["params"]["uri"].startswith("silent:"):
            pass
        elif method == "resources/subscribe" and message["params"]["uri"].startswith("refused:"):
            say(id=message["id"], error={"code": -32002, "message": "no such resource"})
        elif method in ("logging/setLevel", "resources/subscribe"):
            say(id=message["id"], result={})
        elif method == "tools/list":
            say(id=message["id"], result={"tools": []})
        else:
            say(id=message["id"], error={"code": -32601, "message": f"Unknown method {method}"})
        while "--deaf" in FLAGS:
            time.sleep(1)
    for flag in FLAGS:
        if flag.startswith("--saves="):
            time.sleep(3)
            with open(flag.removeprefix("--saves="), "a") as saved:
                saved.write("saved\n")
    if "--ignores-sigterm" in FLAGS or "--ignores-eof" in FLAGS:
        time.sleep(1000)


main()
