"""The native kernels: compiled at first use by the system's C++ compiler, kept on disk, loaded at once the next time.

The file's name carries a hash of the sources, the flags, the compiler and the processor's features, so that a change of any of
them builds anew and a home directory shared by several machines holds one file for each kind.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from duplex.errors import ConfigError

_SOURCES = Path(__file__).parent / "native"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fno-math-errno", "-Wno-psabi")
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where compiled things are kept: $DUPLEX_CACHE, else `duplex` in the user's cache folder."""
    chosen = os.environ.get("DUPLEX_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duplex"


def compiler() -> str | None:
    """The C++ compiler: $CXX if it is set, else the first of g++, c++ and clang++ that is installed."""
    chosen = os.environ.get("CXX")
    for name in [chosen] if chosen else ["g++", "c++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    return None


def _features() -> str:
    """What -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def library_path() -> Path:
    """Where the library for this machine lies, or will lie. Raises ConfigError without a compiler to name it after."""
    tool = compiler()
    if tool is None:
        raise ConfigError("backend native: there is no C++ compiler; install g++ or choose the backend 'naive'")
    digest = hashlib.sha256("\0".join([*_FLAGS, tool, platform.machine(), _features()]).encode())
    version = subprocess.run([tool, "--version"], capture_output=True, check=False).stdout
    digest.update(version)
    for source in sorted(_SOURCES.iterdir()):
        if source.suffix in (".cpp", ".h"):
            digest.update(source.name.encode() + source.read_bytes())
    return cache_folder() / f"native-{digest.hexdigest()[:20]}.so"


def build() -> Path:
    """The path of the library, compiled if it is not there yet. Raises ConfigError with the compiler's first complaint."""
    path = library_path()
    if path.is_file():
        return path
    tool = compiler()
    _log.info("compiling the native kernels with %s (once; kept in %s)", tool, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".build-", dir=path.parent))
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written ({error.strerror}); set DUPLEX_CACHE to a folder that can") from None
    try:
        sources = sorted(_SOURCES.glob("*.cpp"))
        jobs = [subprocess.Popen([tool, *_FLAGS, "-c", str(source), "-o", str(folder / f"{source.stem}.o")],
                                 stderr=subprocess.PIPE, text=True) for source in sources]
        complaints = [job.communicate()[1] for job in jobs]
        if any(job.returncode for job in jobs):
            raise ConfigError(f"backend native: {tool} failed: {_first_error(complaints)}; choose the backend 'naive'")
        part = folder / "library.so"
        objects = [str(folder / f"{source.stem}.o") for source in sources]
        link = subprocess.run([tool, "-shared", *objects, "-o", str(part)], capture_output=True, text=True, check=False)
        if link.returncode:
            raise ConfigError(f"backend native: {tool} cannot link: {_first_error([link.stderr])}; choose the backend 'naive'")
        part.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _first_error(complaints: list[str]) -> str:
    lines = [line for text in complaints for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with its functions' types declared."""
    path = build()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be loaded ({error}); delete it or choose the backend 'naive'") from None
    p, i, i64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in [
        ("dx_matrix", p, [i, i, i, p]), ("dx_matrix_free", None, [p]), ("dx_matrix_bytes", i64, [p]),
        ("dx_matrix_multiply", None, [p, p, i, p]), ("dx_read", ctypes.c_float, [p, i64]),
        ("dx_lm", p, [p, p, p, p]), ("dx_lm_free", None, [p]), ("dx_lm_step", None, [p, p, i]),
        ("dx_mimi", p, [p, p, p, p]), ("dx_mimi_free", None, [p]), ("dx_mimi_encode", None, [p, i, p, p, p, p, p]),
        ("dx_mimi_decode", None, [p, i, p, p, p, p, p]), ("dx_mimi_state", i64, [p, i]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
