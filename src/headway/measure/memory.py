"""Peak resident memory of a variant, measured in a process of its own.

Run as `python -m headway.measure.memory RUNTIME MODEL INPUTS.npz THREADS`, it prints one number: 10^6 bytes at the
peak, beyond what the runtime takes before it has loaded anything.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from headway.core import plugins
from headway.core.errors import HeadwayError


def peak_memory_mb(runtime: str, model: Path, inputs: Path, threads: int) -> float:
    """Load `model` and run the inputs of an npz file in a fresh process; its peak in units of 10^6 bytes.

    Raises:
        HeadwayError: the process failed; its last line of output is in the message.
    """
    command = [sys.executable, "-m", "headway.measure.memory", runtime, str(model), str(inputs), str(threads)]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no output"])[-1]
        raise HeadwayError(f"measuring memory failed: {last}", where=str(model))
    return float(asked.stdout)


def resident(key: str) -> float:
    """`VmRSS` or `VmHWM` in bytes. The kernel's `ru_maxrss` will not do: it survives exec and so counts the parent."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(key + ":"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil

    about = psutil.Process().memory_info()
    return float(getattr(about, "peak_wset", about.rss) if key == "VmHWM" else about.rss)


def forget_peak() -> bool:
    """Let `VmHWM` begin anew at what is resident now (proc(5), clear_refs); False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _main(runtime: str, model: str, inputs: str, threads: str) -> None:
    engine = plugins.load("headway.runtimes", runtime)()
    engine.available()  # imports the engine, so that its own size is not counted
    with np.load(inputs, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    before = resident("VmRSS")
    session = engine.load(Path(model), threads=int(threads))
    for _ in range(3):
        session.run(arrays)
    sys.stdout.write(f"{max(0.0, resident('VmHWM') - before) / 1e6:.3f}\n")
    session.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
