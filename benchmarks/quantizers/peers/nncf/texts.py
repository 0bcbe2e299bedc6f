"""NNCF and OpenVINO on texts, run by a Python of their own and spoken to over pipes; stands alone. Texts come as `.npz`
files of all token ids, one after the other, and how many each text has.

quantize GRAPH TEXTS OUT     GRAPH by NNCF's post-training quantization of transformers, as OpenVINO's OUT.xml
load FILE TEXTS              a session of one thread, and the texts to run
answer OUTPUTS               runs each text alone, and writes all logits as .npy
next                         runs the text after the last one
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from pipe import answer, compiled


class Texts:
    """What was loaded last."""

    session: Any
    rows: list[dict[str, Any]]
    turn: Iterator[dict[str, Any]]

    def quantize(self, graph: str, calibration: str, out: str) -> None:
        """Write OpenVINO's form of a graph."""
        import nncf
        import openvino

        model = openvino.Core().read_model(graph)
        made = nncf.quantize(model, nncf.Dataset(texts(calibration)), model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(made, out, compress_to_fp16=False)

    def load(self, file: str, rows: str) -> None:
        """Of one thread."""
        self.session, self.rows = compiled(file), texts(rows)
        self.turn = itertools.cycle(self.rows)

    def answer(self, out: str) -> None:
        """Run each text alone."""
        np.save(out, np.concatenate([self.session(row)[0] for row in self.rows]))

    def next(self) -> None:
        """Run one text."""
        self.session(next(self.turn))


def texts(file: str) -> list[dict[str, Any]]:
    """Inputs of each text."""
    found = np.load(file)
    cuts = np.cumsum(found["lengths"])[:-1]
    return [{"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]} for ids in np.split(found["ids"], cuts)]


if __name__ == "__main__":
    peer = Texts()
    answer({"quantize": peer.quantize, "load": peer.load, "answer": peer.answer, "next": peer.next})
