"""Headway: `headway pack`, then `headway serve`, as its command line does it.

With CLOCK naming a file, the CPU seconds that runs of the model take are kept in it; with STAGES set too, those of
every stage of a request.
"""

import os
import sys
from pathlib import Path

from benchmarks.serving import clock

from headway.cli.main import main

SETTINGS = ("--no-grpc", "--threads", "1", "--choose-seconds", "0")


def headway(*arguments: str) -> None:
    """One command, in this process."""
    sys.argv = ["headway", *arguments]
    main()


if __name__ == "__main__":
    served, port = Path(sys.argv[1]), sys.argv[2]
    if served.is_file():
        bundle = Path(os.environ["TMPDIR"]) / served.stem
        try:
            headway("pack", str(served), "--name", served.stem, "--out", str(bundle))
        except SystemExit as ended:
            if ended.code:
                raise
        served = bundle
    if "CLOCK" in os.environ:
        clock.install(Path(os.environ["CLOCK"]), clock.STAGES if "STAGES" in os.environ else [clock.RUN])
    headway("serve", str(served), "--http-port", port, *SETTINGS)
