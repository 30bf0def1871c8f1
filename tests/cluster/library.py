"""
Where the places are in ``libchdb.so`` at which a node of a cluster completes it; see :mod:`.engine`.

Addresses and offsets of structures come from byte patterns, which are checked together with the strings
that the code refers to. Unless each pattern is found exactly once, the library is refused, and nothing starts.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

Places = dict[str, int]

# Where the patterns are in builds seen before, which saves a scan of 10 s; they are verified there all the same.
_KNOWN_BUILDS: dict[str, Places] = {
    # npm @chdb/lib-linux-x64-gnu 26.7.3-stable.1
    "d3d8f5517577ad52775b52318a193784b2fb5317": {
        "interserver_address": 0x1417C9C0,
        "handler_factory": 0x18395CC0,
        "ddl_constructor": 0x14243400,
        "ddl_startup": 0x14245300,
        "get_ddl_worker": 0x14179480,
        "server_uuid": 0x12F9D5C0,
        "attach_system": 0x11E77200,
        "ddl_enabled": 0x1356C9D7,
        "catalog": 0x1426B0C0,
        "pool_init": 0xF1CD280,
        "pool_fetch": 0xF1CDB40,
        "pool_create": 0xF1CE5C0,
        "pool_backup": 0xF1CD980,
    },
}


class Refused(RuntimeError):  # noqa: N818 - it is what the program says: the library is refused
    """The library is not one that a node knows how to complete."""


class Elf:
    """Just enough of an ELF64 reader: build id, executable segment, virtual address to file offset."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", self.data, 18)[0] != 62:
            raise Refused(f"{path} is not an x86-64 ELF file")
        (start,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", self.data, start + index * size) for index in range(count)]
        loads = [
            (flags, (address, offset, length)) for kind, flags, offset, address, _, length, *_ in headers if kind == 1
        ]
        self._loads = [load for _, load in loads]
        self.text = next(load for flags, load in loads if flags & 1)
        self.build_id = ""
        for kind, _, offset, *_ in headers:
            if kind == 4:
                self._read_note(offset)

    def _read_note(self, offset: int) -> None:
        names, length, note = struct.unpack_from("<III", self.data, offset)
        if note == 3:
            start = offset + 12 + (names + 3) // 4 * 4
            self.build_id = self.data[start : start + length].hex()

    def offset(self, address: int) -> int:
        """
        The offset in the file of a virtual address.

        Raises:
            Refused: It is in no segment.
        """
        for start, offset, length in self._loads:
            if start <= address < start + length:
                return int(address - start + offset)
        raise Refused(f"address {address:#x} is outside of the library")

    def bytes(self, address: int, count: int) -> bytes:
        """What the library has at a virtual address."""
        start = self.offset(address)
        return self.data[start : start + count]


def _pattern(text: str) -> re.Pattern[bytes]:
    """``48 8b {name:4} 74 ?`` as a pattern of bytes: hexadecimal, ``?`` for any, ``{name:n}`` for n captured ones."""
    compiled = b""
    for token in text.split():
        if token == "?":
            compiled += b"."
        elif token.startswith("{"):
            name, count = token[1:-1].split(":")
            compiled += f"(?P<{name}>.{{{count}}})".encode()
        else:
            compiled += re.escape(bytes([int(token, 16)]))
    return re.compile(compiled, re.DOTALL)


_POOL = _pattern(
    "41 57 41 56 53 48 83 ec ? 0f b6 05 ? ? ? ? 84 c0 74 ? 48 8d 05 ? ? ? ? 48 83 c4 ? 5b 41 5e 41 5f c3"
    " 48 8d 3d ? ? ? ? e8 ? ? ? ? 85 c0 74 ? 48 8d 35 {name:4}"
)
# Beginnings of functions as clang compiles them; each comment is the C++ source.
_SIGNATURES = {
    # std::pair<String, UInt16> Context::getInterserverIOAddress() const
    #     if (shared->interserver_io_host.empty() || shared->interserver_io_port == 0) throw ...
    "interserver_address": _pattern(
        "41 56 53 48 83 ec ? 4c 8b 36 49 0f be 8e {short:4} 48 85 c9 49 8b 96 {long:4} 48 89 c8 48 0f 48 c2"
        " 48 85 c0 74 ? 41 0f b7 86 {port:4} 66 85 c0 74 ?"
    ),
    # HTTPRequestHandlerFactoryPtr createHandlerFactory(IServer &, ..., AsynchronousMetrics &, const String & name)
    #     if (name == "HTTPHandler-factory" || name == "HTTPSHandler-factory") ...
    "handler_factory": _pattern(
        "55 41 57 41 56 41 55 41 54 53 48 81 ec ? ? ? ? 49 89 cf 49 89 d4 49 89 f6 48 89 fb 48 0f be 49 17 48 85 c9"
        " 49 8b 47 08 48 89 ca 48 0f 48 d0 48 83 fa 14"
    ),
    # DDLWorker::DDLWorker(int pool_size, const String & queue_path, const String & replicas_path, ContextPtr,
    #     const AbstractConfiguration *, const String & config_prefix, const String & zookeeper_name,
    #     const String & logger_name, const Metric *, const Metric *)
    "ddl_constructor": _pattern(
        "55 41 57 41 56 41 55 41 54 53 48 81 ec ? ? ? ? 48 89 cd 49 89 d7 41 89 f6 48 89 fb 4c 89 84 24 ? ? ? ?"
        " 4c 89 8c 24 ? ? ? ? 48 8d 05 {vtable:4} 48 89 07 48 8d bc 24 ? ? ? ? e8"
    ),
    # void DDLWorker::startup(): stop_flag.exchange(false);
    #     main_thread = make_unique<ThreadFromGlobalPool>(&DDLWorker::runMainThread, this) ...
    "ddl_startup": _pattern(
        "41 57 41 56 53 48 83 ec 20 48 89 fb 31 c0 86 87 {stop:4} 48 8d 05 {main:4} 48 89 44 24 10"
        " 48 c7 44 24 18 00 00 00 00 48 89 7c 24 08 bf 10 00 00 00 e8 {new:4}"
    ),
    # DDLWorker & Context::getDDLWorker() const: if (shared->ddl_worker_startup_task) waitLoad(...); ...
    "get_ddl_worker": _pattern(
        "55 41 57 41 56 53 48 81 ec ? ? ? ? 48 89 fb 4c 8b 37 49 8b be {task:4} 48 85 ff 74 ? e8 ? ? ? ?"
        " 49 8b 86 {task2:4} 4c 8b 30"
    ),
    # UUID ServerUUID::get(): if (server_uuid == Nil && Context::getGlobalContextInstance()->...) throw ...
    "server_uuid": _pattern(
        "55 41 56 53 48 83 ec ? 48 8b 05 {low:4} 48 8b 15 {high:4} 48 89 d1 48 09 c1 0f 1f 40 00 0f 85 ? ? ? ?"
        " 48 8b 3d {context:4} 48 8b 1d {control:4} 48 85 db"
    ),
    # DatabaseCatalog & DatabaseCatalog::instance(): if (!database_catalog) throw ...
    "catalog": _pattern("41 56 53 48 83 ec ? 48 8b 05 {variable:4} 48 85 c0 74 08 48 83 c4 ? 5b 41 5e c3"),
    # DatabaseReplicated: if (!DatabaseCatalog::instance().canPerformReplicatedDDLQueries()) throw ...
    "ddl_enabled": _pattern("e8 {instance:4} 48 89 c7 e8 {getter:4} 84 c0 0f 84 {throw:4} 48 89 df"),
    # void StaticThreadPool::initialize(size_t, size_t, size_t): if (instance) return; std::call_once(...)
    "pool_init": _pattern(
        "48 83 ec 48 48 89 74 24 10 48 89 54 24 08 48 89 0c 24 48 83 7f {instance:1} 00 74 05 48 83 c4 48 c3"
        " 48 89 7c 24"
    ),
    # StaticThreadPool & getFetchPartThreadPool() {static StaticThreadPool instance("...", ...); return instance;} ...
    "pool_fetch": _POOL,
    "pool_create": _POOL,
    "pool_backup": _POOL,
    # void attachSystemTablesServer(ContextPtr, IDatabase &, bool has_zookeeper, bool has_keeper_server)
    "attach_system": _pattern(
        "55 41 57 41 56 41 55 41 54 53 48 81 ec ? ? ? ? 41 89 cc 48 89 d3 48 89 7c 24 ? 48 89 74 24 ? 48 8d 35 {name:4}"
    ),
}
_SCHEME_GETTER = _pattern("48 8b 06 80 b8 {top:4} 00 78 ? 48 05 {scheme:4} 48 8b 48 10 48 89 4f 10")
_CREDENTIALS_GETTER = _pattern(
    "4c 8b 3f 49 8d 9f {mutex:4} 48 89 df e8 ? ? ? ? 4d 8b b7 {pointer:4} 4d 8b bf {control:4} 4d 85 ff"
)
_DDL_WORKER_LOAD = _pattern("48 8b 03 4c 8b b0 {worker:4} 4c 89 ff e8")
_FLAG_GETTER = _pattern("0f b6 87 {flag:4} c3")
# lea, vpxor ymm and vmovups ymm: the loads that refer to a string.
_RIP_LOADS = re.compile(rb"(?:\x48\x8d[\x05\x35]|\xc5\xfd\xef\x05|\xc5\xfc\x10\x05)(.{4})", re.DOTALL)
# The string that each function refers to, and how far from its beginning.
_MENTIONS = {
    "interserver_address": (b"Parameter 'interserver_http(s)_port' required for replication", 0x100),
    "handler_factory": (b"InterserverIOHTTPHandler-factory", 0x200),
    "ddl_constructor": (b"DDLWorker is configured to use multiple threads", 0x800),
    "get_ddl_worker": (b"DDL background thread is not initialized", 0x180),
    "server_uuid": (b"ServerUUID is not initialized yet", 0x180),
    "catalog": (b"Database catalog is not initialized", 0x60),
}
_NAMES = {
    "pool_fetch": b"MergeTreeFetchPartitionThreadPool\0",
    "pool_create": b"CreateTablesThreadPool\0",
    "pool_backup": b"BackupsIOThreadPool\0",
    "attach_system": b"attachSystemTablesServer",
}


def captured(match: re.Match[bytes], group: str) -> int:
    """A captured little-endian number."""
    return int.from_bytes(match[group], "little", signed=True)


class _Search:
    """The search of one library."""

    def __init__(self, path: Path) -> None:
        self.path, self.elf = path, Elf(path)
        self.matches: dict[str, re.Match[bytes]] = {}
        self.places: Places = {}

    def refuse(self, what: str) -> Refused:
        return Refused(f"{self.path} (build id {self.elf.build_id}): {what}; nothing was started")

    def address(self, match: re.Match[bytes]) -> int:
        return int(match.start() + self.elf.text[0] - self.elf.text[1])

    def pointed_to(self, match: re.Match[bytes], group: str) -> int:
        """The address that a captured displacement points to, which is relative to its own end."""
        return int(match.end(group) + self.elf.text[0] - self.elf.text[1] + captured(match, group))

    def mentions(self, start: int, text: bytes, reach: int) -> bool:
        """Whether the code from the offset *start* on refers to the string *text*."""
        for load in _RIP_LOADS.finditer(self.elf.data, start, start + reach):
            (displacement,) = struct.unpack("<i", load[1])
            try:
                if self.elf.bytes(load.end() + self.elf.text[0] - self.elf.text[1] + displacement, len(text)) == text:
                    return True
            except Refused:
                continue
        return False

    def fits(self, name: str, match: re.Match[bytes]) -> bool:
        if name in _MENTIONS:
            text, reach = _MENTIONS[name]
            return self.mentions(match.start(), text, reach)
        if name in _NAMES:
            return self.elf.bytes(self.pointed_to(match, "name"), len(_NAMES[name])) == _NAMES[name]
        if name == "ddl_startup":
            return 0 < self.address(match) - self.places["ddl_constructor"] < 0x10000
        if name == "ddl_enabled":
            return (
                self.pointed_to(match, "instance") == self.places["catalog"]
                and _FLAG_GETTER.match(self.elf.bytes(self.pointed_to(match, "getter"), 8)) is not None
                and self.mentions(
                    self.elf.offset(self.pointed_to(match, "throw")), b"Replicated DDL queries are disabled", 0x40
                )
            )
        return True

    def find_functions(self) -> None:
        """Find each function exactly once."""
        hints = _KNOWN_BUILDS.get(self.elf.build_id)
        _, offset, size = self.elf.text
        scan: Callable[[re.Pattern[bytes]], list[re.Match[bytes]]] = cache(
            lambda pattern: list(pattern.finditer(self.elf.data, offset, offset + size))
        )
        # ddl_enabled is known by the catalog, which stands before it.
        for name, pattern in _SIGNATURES.items():
            if hints is None:
                candidates = scan(pattern)
            else:
                match = pattern.match(self.elf.data, self.elf.offset(hints[name]))
                candidates = [] if match is None else [match]
            fitting = [match for match in candidates if self.fits(name, match)]
            if len(fitting) != 1:
                raise self.refuse(f"the pattern of {name} was found {len(fitting)} times instead of once")
            self.matches[name] = fitting[0]
            self.places[name] = self.address(fitting[0])

    def near(self, pattern: re.Pattern[bytes], name: str, before: int, after: int) -> re.Match[bytes]:
        """The match of *pattern* around the beginning of a function."""
        start = self.matches[name].start()
        match = pattern.search(self.elf.data, start - before, start + after)
        if match is None:
            raise self.refuse(f"what stands beside {name} is not as expected")
        return match

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            raise self.refuse(f"{what} is not as expected")

    def find_fields(self) -> None:
        """Find the fields of ContextSharedPart, and the static variables."""
        address, getter, ids = (self.matches[name] for name in ("interserver_address", "get_ddl_worker", "server_uuid"))
        # interserver_io_host (a String of 24 bytes), _port (UInt16), interserver_scheme, interserver_io_credentials.
        port = captured(address, "port")
        host = port - 24
        short, long = captured(address, "short"), captured(address, "long")
        self.expect((short, long) == (host + 23, host + 8), "the layout of interserver_io_host")
        scheme = self.near(_SCHEME_GETTER, "interserver_address", 0, 0x200)
        self.expect(captured(scheme, "scheme") == port + 8 == captured(scheme, "top") - 23, "getInterserverScheme")
        credentials = self.near(_CREDENTIALS_GETTER, "interserver_address", 0x100, 0)
        pointer = captured(credentials, "pointer")
        self.expect(
            (captured(credentials, "mutex"), captured(credentials, "control")) == (port + 32, pointer + 8),
            "getInterserverCredentials",
        )
        worker = captured(self.near(_DDL_WORKER_LOAD, "get_ddl_worker", 0, 0x100), "worker")
        self.expect(worker == captured(getter, "task") - 8 == captured(getter, "task2") - 8, "shared->ddl_worker")
        low, context = self.pointed_to(ids, "low"), self.pointed_to(ids, "context")
        self.expect(
            (self.pointed_to(ids, "high"), self.pointed_to(ids, "control")) == (low + 8, context + 8), "ServerUUID::get"
        )
        flag = _FLAG_GETTER.match(self.elf.bytes(self.pointed_to(self.matches["ddl_enabled"], "getter"), 8))
        assert flag is not None, "it matched before"
        self.places |= {
            "host": host,
            "port": port,
            "scheme": port + 8,
            "credentials": pointer,
            "catalog_variable": self.pointed_to(self.matches["catalog"], "variable"),
            "ddl_flag": captured(flag, "flag"),
            "ddl_worker": worker,
            "ddl_vtable": self.pointed_to(self.matches["ddl_constructor"], "vtable"),
            "operator_new": self.pointed_to(self.matches["ddl_startup"], "new"),
            "uuid_variable": low,
            "context_variable": context,
        }


@cache
def locate(library: Path) -> Places:
    """
    The addresses and offsets that a node needs.

    Raises:
        Refused: They do not fit together: it is another build, whose patterns nobody has looked up.
    """
    search = _Search(library)
    search.find_functions()
    search.find_fields()
    return search.places
