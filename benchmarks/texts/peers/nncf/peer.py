"""NNCF and OpenVINO, run by a Python of their own and spoken to over pipes; stands alone. Texts come as `.npz` files of
all token ids, one after the other, and how many each text has.

    quantize GRAPH TEXTS OUT     GRAPH by NNCF's post-training quantization of transformers, as OpenVINO's OUT.xml
    load FILE TEXTS              a session of one thread, and the texts to run
    answer OUTPUTS               runs each text alone, and writes all logits as .npy
    next                         runs the text after the last one
"""

import contextlib
import itertools
import sys


def main() -> None:
    told = sys.stdout
    session, rows, after = None, [], iter(())
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\t")
        with contextlib.redirect_stdout(sys.stderr):
            if command == "quantize":
                quantize(*words)
            elif command == "load":
                session, rows = load(words[0]), texts(words[1])
                after = itertools.cycle(rows)
            elif command == "answer":
                answer(session, rows, words[0])
            elif command == "next":
                session(next(after))
        print("done", file=told, flush=True)


def texts(file):
    import numpy as np

    found = np.load(file)
    cuts = np.cumsum(found["lengths"])[:-1]
    return [{"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]} for ids in np.split(found["ids"], cuts)]


def quantize(graph, calibration, out):
    import nncf
    import openvino

    data = nncf.Dataset(texts(calibration))
    model = openvino.Core().read_model(graph)
    made = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(made, out, compress_to_fp16=False)


def load(file):
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(file, "CPU", options)


def answer(session, rows, out):
    import numpy as np

    np.save(out, np.concatenate([session(row)[0] for row in rows]))


if __name__ == "__main__":
    main()
