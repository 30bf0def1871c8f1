"""
One node of a cluster: ``libchdb.so`` in this process, completed to what a ClickHouse server is in a cluster.

The library's ``chdb_query_cmdline`` is clickhouse-local's main(), which can listen on HTTP and TCP. It lacks seven
steps that clickhouse-server takes when it starts. The code behind them is in the library, only the calls are
missing, so this process makes up for them in its own memory; the file on disk is never changed:

1. ``ServerUUID::load``: 16 bytes are written into the static variable, else nodes kill each other's Keeper sessions.
2. ``setInterserverIOAddress``, ``…Scheme``, ``updateInterserverCredentials``: those fields of ContextSharedPart are
   filled at the first call of getInterserverIOAddress(), so also for tables that are loaded before any listener is.
3. The interserver listener: listen_host has two addresses, and HTTP starts on both with the same port. For the second
   one the name given to createHandlerFactory() is replaced: 127.0.0.1 takes queries, 127.0.0.2 exchanges parts.
4. ``setDDLWorker`` (ON CLUSTER): DDLWorker's constructor and startup() are called.
5. ``startReplicatedDDLQueries``: the flag of the DatabaseCatalog is set.
6. Thread pools that only the server initialises: FETCH PARTITION, Replicated databases, BACKUP.
7. ``system.zookeeper``: attachSystemTablesServer() is told that there is a Keeper.

Run as ``python engine.py NODE.json``; it ends with the process that started it. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import signal
import struct
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a deleting destructor passes to operator delete: the size of the object.
_DELETING_DESTRUCTOR = re.compile(rb"\x53\x48\x89\xfb\xe8....\xbe(.{4})\x48\x89\xdf\x5b\xe9", re.DOTALL)
_STAY = (
    "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; SELECT sleepEachRow(3) FROM numbers(100000000) SETTINGS "
    "max_block_size=1, max_execution_time=0, function_sleep_max_microseconds_per_block=0, log_queries=0 FORMAT Null"
)
_PUSH = bytes.fromhex("55 57 56 52 51 4150 4151")  # rbp, rdi, rsi, rdx, rcx, r8, r9; the stack is aligned to 16 now
_POP = bytes.fromhex("4159 4158 59 5a 5e 5f 5d")
_CALL = bytes.fromhex("4889e7 48b8"), bytes.fromhex("ffd0")  # mov rdi, rsp; mov rax, callback; call rax
_JUMP_ON = bytes.fromhex("ff2500000000")
_JUMP_TO = bytes.fromhex("48b8"), bytes.fromhex("ffe0")  # mov rax, trampoline; jmp rax
_ADD_REFERENCE = bytes.fromhex("f048ff4708 c3")  # lock inc qword ptr [rdi + 8]; ret
_EXECUTABLE, _PLAIN = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_READ | mmap.PROT_EXEC


class Registers(ctypes.Structure):
    """The integer argument registers at the entry of a hooked function, in the order in which they are pushed."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("r9", "r8", "rcx", "rdx", "rsi", "rdi")]


class Engine:
    """The library in this process, with the missing steps added; see the module."""

    def __init__(self, node: dict[str, Any]) -> None:
        self._node, self._places = node, node["places"]
        self._keep: list[object] = []
        self._factories, self._pools_ready = 0, False
        self._library = ctypes.CDLL(node["library"])
        self._base = _base_address(Path(node["library"]).resolve())
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._code = mmap.mmap(-1, 4096, prot=_EXECUTABLE)
        self._code_address = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        ctypes.memmove(self._at("uuid_variable"), _server_uuid(Path(node["folder"]) / "uuid").bytes, 16)
        # InterserverCredentials {String user; String password; std::vector<std::pair<String, String>> store}, with the
        # one entry ("", "") that a server has when nothing is configured. 24 zero bytes are an empty libc++ string.
        entry = self._buffer(bytes(48))
        self._credentials = self._buffer(bytes(48) + struct.pack("<QQQ", entry, entry + 48, entry + 48) + bytes(64))
        self._interserver_factory = self._string("InterserverIOHTTPHandler-factory")
        # The size is that of the whole instructions at the function's beginning which move into the trampoline.
        self._hook("interserver_address", 18, self._on_interserver_address)
        self._hook("handler_factory", 17, self._on_handler_factory)
        self._hook("pool_init", 14, self._on_pool_init)
        self._hook("attach_system", 17, self._on_attach_system)

    def run(self) -> None:
        """Run clickhouse-local's main(): open the listeners, then sleep in a query until the process is killed."""
        folder = self._node["folder"]
        # clickhouse-local takes its level from here only; its default, trace, costs as much as the queries.
        level = f"--log-level={self._node['log_level']}"
        arguments = [
            *("clickhouse", f"--config-file={folder}/config.xml", f"--path={folder}/data", level, f"--query={_STAY}")
        ]
        main = self._library.chdb_query_cmdline
        main.restype = ctypes.c_void_p
        main(len(arguments), (ctypes.c_char_p * len(arguments))(*[text.encode() for text in arguments]))

    def _at(self, place: str) -> int:
        return self._base + int(self._places[place])

    def _buffer(self, content: bytes) -> int:
        kept = ctypes.create_string_buffer(content, len(content))
        self._keep.append(kept)
        return ctypes.addressof(kept)

    def _string(self, text: str) -> int:
        """A libc++ std::string in its long form {char * data; size_t size; size_t capacity | 1 << 63}, never freed."""
        data = text.encode() + b"\0"
        return self._buffer(struct.pack("<QQQ", self._buffer(data), len(data) - 1, len(data) | 1 << 63))

    def _hook(self, name: str, moved: int, callback: Callable[[Registers], None]) -> None:
        """Call *callback* at each entry of a function; what it changes in the registers is seen by the function."""

        def guarded(registers: Any) -> None:
            try:
                callback(registers[0])
            except BaseException:  # noqa: BLE001
                # It must not travel through C++ frames: be loud instead.
                traceback.print_exc()
                os._exit(70)

        function = ctypes.CFUNCTYPE(None, ctypes.POINTER(Registers))(guarded)
        self._keep.append(function)
        pointer = ctypes.cast(function, ctypes.c_void_p).value
        address = self._at(name)
        start = self._code_address + self._code.tell()
        self._code.write(
            _PUSH
            + struct.pack("<Q", pointer).join(_CALL)
            + _POP
            # None of the moved instructions is relative to its own address.
            + ctypes.string_at(address, moved)
            + _JUMP_ON
            + struct.pack("<Q", address + moved)
        )
        page = address & ~4095
        if self._libc.mprotect(page, 8192, _EXECUTABLE):
            raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.memmove(address, struct.pack("<Q", start).join(_JUMP_TO).ljust(moved, b"\xcc"), moved)
        self._libc.mprotect(page, 8192, _PLAIN)

    def _set_interserver(self, shared: int) -> None:
        port = ctypes.c_uint16.from_address(shared + self._places["port"])
        if port.value:
            return
        for field, text in (("host", self._node["interserver_host"]), ("scheme", "http")):
            # Short strings of libc++: 23 bytes and their length.
            ctypes.memmove(shared + self._places[field], text.encode().ljust(23, b"\0") + bytes([len(text)]), 24)
        # A shared_ptr without a control block is never freed.
        _u64(shared + self._places["credentials"]).value = self._credentials
        port.value = self._node["http_port"]

    def _on_interserver_address(self, registers: Registers) -> None:
        # rdi is the result, rsi a const Context *, whose first field is a ContextSharedPart *.
        self._set_interserver(_u64(registers.rsi).value)

    def _on_handler_factory(self, registers: Registers) -> None:
        # rcx is a const String & name; the second listener's is replaced.
        self._factories += 1
        if self._factories == 1:
            context = _u64(self._at("context_variable")).value
            self._set_interserver(_u64(context).value)
            self._start_ddl_worker(context)
            catalog = _u64(self._at("catalog_variable")).value
            ctypes.c_uint8.from_address(catalog + self._places["ddl_flag"]).value = 1
        if self._factories % 2 == 0:
            registers.rcx = self._interserver_factory

    def _start_ddl_worker(self, context: int) -> None:
        pointer = ctypes.c_void_p
        # vtable[-1] leads to the name of the class: is this DDLWorker's? vtable[1] deletes, so it knows the size.
        vtable = self._at("ddl_vtable")
        name = ctypes.string_at(_u64(_u64(vtable - 8).value + 8).value)
        size = _DELETING_DESTRUCTOR.match(ctypes.string_at(_u64(vtable + 8).value, 32))
        if name != b"N2DB9DDLWorkerE" or size is None:
            raise RuntimeError(f"unexpected vtable of DDLWorker ({name!r})")
        new = ctypes.CFUNCTYPE(pointer, ctypes.c_size_t)(self._at("operator_new"))
        memory = new(int.from_bytes(size[1], "little"))
        control = _u64(self._at("context_variable") + 8).value
        # The constructor takes over one reference of the shared_ptr.
        add_reference = self._code_address + self._code.tell()
        self._code.write(_ADD_REFERENCE)
        ctypes.CFUNCTYPE(None, pointer)(add_reference)(control)
        # libc++'s shared_ptr is passed in two registers.
        construct = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int, *[pointer] * 10)(self._at("ddl_constructor"))
        queue, replicas = (self._string(f"/clickhouse/task_queue/{name}") for name in ("ddl", "replicas"))
        names = [self._string(text) for text in ("distributed_ddl", "default", "DDLWorker")]
        construct(memory, 1, queue, replicas, context, control, None, *names, None, None)
        _u64(_u64(context).value + self._places["ddl_worker"]).value = memory
        ctypes.CFUNCTYPE(None, pointer)(self._at("ddl_startup"))(memory)

    def _on_pool_init(self, _: Registers) -> None:
        # While clickhouse-local initialises its own pools. The calls below come here, too.
        if self._pools_ready:
            return
        self._pools_ready = True
        initialise = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_size_t] * 3)(self._at("pool_init"))
        for name in ("pool_fetch", "pool_create", "pool_backup"):
            initialise(ctypes.CFUNCTYPE(ctypes.c_void_p)(self._at(name))(), 16, 0, 10000)

    def _on_attach_system(self, registers: Registers) -> None:
        # rdi and rsi are a ContextPtr, rdx an IDatabase &, ecx is has_zookeeper.
        registers.rcx = 1


def _u64(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)


def _base_address(library: Path) -> int:
    """Where the library is loaded in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(library)) and line.split()[2] == "00000000":
            return int(line.split("-")[0], 16)
    raise RuntimeError(f"{library} is not loaded")


def _server_uuid(path: Path) -> uuid.UUID:
    """The server's id, kept in a file as a server keeps its own."""
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return uuid.UUID(path.read_text())


def die_with_parent(action: Callable[[], None]) -> None:
    """Call *action* when the starting process ends in any way: it holds the other end of stdin."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        action()

    threading.Thread(target=wait, daemon=True).start()


def main(node: Path) -> None:
    """Run a node in this process."""
    die_with_parent(lambda: os.kill(os.getpid(), signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Engine(json.loads(node.read_text())).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
