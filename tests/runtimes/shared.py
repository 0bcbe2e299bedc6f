"""What every runtime's sessions must stand."""

import threading
from collections.abc import Sequence

import numpy as np

from headway.core.tensors import Array
from headway.runtimes.runtime import Session


def answers_of_threads(session: Session, name: str, values: Sequence[Array], wanted: Sequence[Array]) -> list[int]:
    """Numbers of the values that were answered wrong, while a thread for each asked 50 times."""
    wrong: list[int] = []

    def run(number: int) -> None:
        answers = (next(iter(session.run({name: values[number]}).values())) for _ in range(50))
        wrong.extend(number for answer in answers if not np.allclose(answer, wanted[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong
