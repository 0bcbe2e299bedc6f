"""Fine-tunes the MiniLM encoder on film reviews, makes it small and fast, and holds it beside what exists; writes a
section of benchmarks/RESULTS.md.

    python -m benchmarks.texts [--seeds 0] [--epochs 2] [--distill-epochs 2] [--threads 1] [--work FOLDER] [--small]

12,808 snippets of reviews (2 to 78 tokens, mean 27) that say whether a film is fresh or rotten, split by film. What is
trained and made is kept in the folder, and an interrupted run goes on from there. All are compared with the original in
eager PyTorch, one thread, on test texts of their own lengths, one at a time and in turn. `--small` has made-up reviews,
a tiny encoder and no peers that want an environment of their own; it takes a minute and only prints.
"""

import argparse
import tempfile
from pathlib import Path
from time import monotonic

from benchmarks.encoder import minilm
from benchmarks.results import RESULTS, write
from benchmarks.texts.report import section
from benchmarks.texts.run import Run, Setting

from headway.core.files import home
from headway.core.progress import SILENT
from headway.tasks import Task
from headway.tasks.texts import texts
from headway.train.config import TrainConfig

FULL = Setting(
    TrainConfig(epochs=2, batch_size=32, lr=1e-4, warmup=0.1, checkpoint_seconds=300),
    kept=(0, 2, 4),
    narrow=0.95,
    distill=2,
    light=0.98,
    recover=0.5,
    least_weights=16384,
    latency=60,
    apart=True,
)
SMALL = FULL._replace(
    train=TrainConfig(epochs=2, batch_size=16, lr=3e-3),
    kept=(0,),
    narrow=0.95,
    distill=1,
    light=0.95,
    recover=0.5,
    least_weights=0,
    latency=0,
    apart=False,
)


def reviews() -> Task:
    """Real ones, for MiniLM."""
    minilm.fetched()
    return texts(
        str(minilm.FOLDER / "texts.csv"),
        str(minilm.FOLDER / "tokenizer.json"),
        ("rotten", "fresh"),
        weights=str(minilm.FOLDER / "model.safetensors"),
        label="category",
        group="movie_name",
    )


def made_up(folder: Path) -> Task:
    """Reviews whose words tell which film is good, for a tiny encoder."""
    from tests.tasks.films import make

    return texts(**make(folder))


def main() -> None:
    """Train, make, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=float, help="passes over the training part, of the original")
    parser.add_argument("--distill-epochs", type=float, help="the same, of the student")
    parser.add_argument("--threads", type=int, help="of the training; every core by default")
    parser.add_argument("--work", type=Path, help="keeps what is computed; below HEADWAY_HOME by default")
    parser.add_argument("--small", action="store_true", help="made-up reviews, a minute, nothing written")
    asked, began = parser.parse_args(), monotonic()
    setting = SMALL if asked.small else FULL
    given = {"threads": asked.threads, "epochs": asked.epochs or setting.train.epochs}
    setting = setting._replace(
        train=setting.train.model_copy(update=given), distill=asked.distill_epochs or setting.distill
    )
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
        task = made_up(Path(folder)) if asked.small else reviews()
        work = asked.work or (Path(folder) if asked.small else home() / "cache" / "benchmarks" / "texts")
        runs = {seed: Run(task, setting, seed, work / f"seed-{seed}", SILENT) for seed in asked.seeds}
        chosen = {seed: run.selection() for seed, run in runs.items()}
        found = {seed: run.measure() for seed, run in runs.items()}
    text = section(setting, task, chosen, found, (monotonic() - began) / 60)
    if asked.small:
        print(text)
    else:
        write("texts", text)
        print(f"{text}\n\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
