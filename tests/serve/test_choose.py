"""Which variant serves here: proved, measured, chosen within the contract, kept, or pinned. Real models throughout."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import headway
from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Contract, Latency, Variant
from headway.bundles.seal import Draft, seal
from headway.core import machine
from headway.core.errors import BundleError, FormatError
from headway.core.tensors import TensorSpec
from headway.runtimes.runtime import Session
from headway.serve import loading
from headway.serve.choice import Choice, Figure, best
from headway.serve.choose import choose
from headway.serve.config import ServeConfig
from headway.serve.loading import load_bundle
from headway.serve.server import Server

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
SIZE = 2000  # 4 million products a row where the cheap model has 12: hundreds of times its cost
Seal = Callable[..., Bundle]


def graph(*, dear: bool = False, off: float = 0.0) -> onnx.GraphProto:
    """`logits = input @ (WEIGHTS + off)`, [batch, 4] -> [batch, 3]; `dear` adds a long way to nought."""
    constants = {"weights": WEIGHTS + np.float32(off)}
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["short" if dear else "logits"])]
    if dear:
        constants |= {
            "widen": np.ones((4, SIZE), np.float32),
            "large": np.zeros((SIZE, SIZE), np.float32),
            "narrow": np.ones((SIZE, 3), np.float32),
        }
        way = [("input", "widen", "wide"), ("wide", "large", "nought"), ("nought", "narrow", "none")]
        nodes += [helper.make_node("MatMul", [left, right], [out]) for left, right, out in way]
        nodes.append(helper.make_node("Add", ["short", "none"], ["logits"]))
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


CHEAP, DEAR, WRONG = graph(), graph(dear=True), graph(off=1)


@pytest.fixture
def seal_all(tmp_path: Path, home: Path) -> Seal:
    """`seal_all({"a": graph, "b": graph}, contract)` seals them as variants of one bundle; the first is `chosen`."""

    def make(graphs: Mapping[str, onnx.GraphProto], contract: Contract | None = None, name: str = "m") -> Bundle:
        models = {}
        for id_, body in graphs.items():
            models[id_] = tmp_path / f"{id_}.onnx"
            onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), models[id_])
        draft = Draft(
            name=name,
            version="1",
            inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 4), dims=("batch", "")),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 3), dims=("batch", "")),),
            variants=tuple(
                Variant(
                    id=id_, file="", format="onnx", runtime="onnxruntime", precision="fp32", tolerance={"logits": 1e-5}
                )
                for id_ in graphs
            ),
            chosen=next(iter(graphs)),
            contract=contract or Contract(),
        )
        sample = Sample({"input": ROWS}, {"logits": ROWS @ WEIGHTS})
        return seal(tmp_path / "sealed" / name, draft, models=models, golden=[sample], report="")

    return make


@dataclass
class Watched:
    """Opens variants as `load_bundle` does, and counts what is open."""

    bundle: Bundle
    opened: list[tuple[str, int]] = field(default_factory=list)
    closed: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, variant: Variant, threads: int) -> Session:
        session = loading.open_variant(self.bundle, variant, threads)
        self.opened.append((variant.id, threads))
        close = session.close

        def closing() -> None:
            self.closed.append((variant.id, threads))
            close()

        session.close = closing  # type: ignore[method-assign]
        return session


def choice_of(bundle: Bundle, **settings: object) -> Choice:
    loaded = load_bundle(bundle, **{"choose_seconds": 0.1} | settings)  # type: ignore[arg-type]
    np.testing.assert_allclose(loaded.session.run({"input": ROWS})["logits"], ROWS @ WEIGHTS, atol=1e-5)
    assert loaded.variant.id == loaded.choice.variant
    loaded.session.close()
    return loaded.choice


def test_the_fastest_serves_whatever_the_manifest_chose_and_the_others_are_closed(seal_all: Seal) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP})
    watched = Watched(bundle)
    choice, session = choose(bundle, watched, seconds=0.3)
    counts = dict.fromkeys((1, machine.usable_cores()))
    assert (choice.variant, choice.source) == ("cheap", "measured")
    assert {(f.variant, f.threads) for f in choice.figures} == {(v, n) for v in ("dear", "cheap") for n in counts}
    assert choice.figures[-1].variant == "dear"
    assert choice.figures[-1].latency_ms.p50 > 5 * choice.figures[0].latency_ms.p50
    assert sorted([*watched.closed, (choice.variant, choice.threads)]) == sorted(watched.opened)
    session.run({"input": ROWS})
    session.close()


def test_the_choice_is_kept_and_the_next_start_opens_nothing_else(seal_all: Seal, home: Path) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP})
    first = choice_of(bundle)
    (file,) = (home / "cache" / "choices").iterdir()
    written = file.read_bytes()
    watched = Watched(bundle)
    again, session = choose(bundle, watched, seconds=0.1)
    session.close()
    assert watched.opened == [(first.variant, first.threads)]
    assert again == first.model_copy(update={"source": "kept"})
    assert file.read_bytes() == written


def test_other_settings_and_other_bundles_are_other_choices(seal_all: Seal, home: Path) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP})
    assert choice_of(bundle).source == "measured"
    assert choice_of(bundle, threads=1).threads == 1
    assert choice_of(seal_all({"cheap": CHEAP, "dear": DEAR}, name="other"), threads=1).source == "measured"
    assert len(list((home / "cache" / "choices").iterdir())) == 3
    assert choice_of(bundle, threads=1).source == "kept"


@pytest.mark.parametrize("damage", ["empty", "binary", "truncated", "other schema", "foreign", "folder"])
def test_a_file_that_is_corrupt_or_of_another_key_is_ignored(seal_all: Seal, home: Path, damage: str) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP})
    choice_of(bundle, threads=1)
    (file,) = (home / "cache" / "choices").iterdir()
    whole = file.read_text()
    document = json.loads(whole)
    lies = document | {"key": "0" * 64, "choice": document["choice"] | {"variant": "dear"}}
    texts = {"empty": "", "truncated": whole[:50], "other schema": '{"variant": "dear"}', "foreign": json.dumps(lies)}
    if damage == "binary":
        file.write_bytes(b"\xff\x00" * 100)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_text(texts[damage])
    choice = choice_of(bundle, threads=1)
    assert (choice.variant, choice.source) == ("cheap", "measured")
    assert choice_of(bundle, threads=1).source == ("measured" if damage == "folder" else "kept")


def test_a_kept_choice_that_does_not_prove_itself_is_made_anew(seal_all: Seal, home: Path) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP, "wrong": WRONG})
    choice_of(bundle, threads=1)
    (file,) = (home / "cache" / "choices").iterdir()
    for change in ({"variant": "gone"}, {"variant": "wrong"}, {"threads": 64}):
        document = json.loads(file.read_text())
        file.write_text(json.dumps(document | {"choice": document["choice"] | change}))
        assert (choice_of(bundle, threads=1).source, choice_of(bundle, threads=1).source) == ("measured", "kept")


def test_a_variant_that_answers_otherwise_is_left_out_and_the_log_says_why(
    seal_all: Seal, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = seal_all({"wrong": WRONG, "cheap": CHEAP, "dear": DEAR})
    with caplog.at_level(logging.INFO, "headway"):
        choice = choice_of(bundle)
    assert choice.variant == "cheap"
    assert list(choice.left_out) == ["wrong"]
    assert "differs from its golden output" in choice.left_out["wrong"]
    assert {f.variant for f in choice.figures} == {"cheap", "dear"}
    (warned,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "differs from its golden output" in warned.fields["reason"]  # type: ignore[attr-defined]
    (chosen,) = [r.fields for r in caplog.records if r.getMessage() == "variant chosen"]  # type: ignore[attr-defined]
    assert (chosen["variant"], chosen["source"], chosen["why"]) == ("cheap", "measured", choice.why)


def test_one_that_is_left_alone_serves_without_measuring(seal_all: Seal) -> None:
    choice = choice_of(seal_all({"wrong": WRONG, "dear": DEAR}), threads=1)
    assert (choice.variant, choice.source, choice.figures) == ("dear", "only", ())


def test_where_all_fail_loading_fails_and_names_each(seal_all: Seal) -> None:
    bundle = seal_all({"wrong": WRONG, "worse": graph(off=2)})
    with pytest.raises(BundleError, match=r"no variant can serve here: wrong: .*differs.*; worse: .*differs"):
        load_bundle(bundle)
    with (
        pytest.raises(BundleError, match="no variant can serve here"),
        Server([bundle], ServeConfig(http_port=0)).running(),
    ):
        pass


def test_a_model_file_that_the_runtime_refuses_is_left_out(seal_all: Seal) -> None:
    unknown = graph()
    unknown.node[0].op_type = "NoSuchOperator"
    assert choice_of(seal_all({"unknown": unknown, "cheap": CHEAP})).left_out.keys() == {"unknown"}
    with pytest.raises(FormatError):
        load_bundle(seal_all({"unknown": unknown}, name="alone"))


def test_pinned_means_no_measuring(seal_all: Seal, home: Path) -> None:
    bundle = seal_all({"cheap": CHEAP, "dear": DEAR}, Contract(threads=1))
    for settings, variant, threads, source in (
        ({"variant": "dear"}, "dear", 1, "pinned"),
        ({"variant": "dear", "threads": 2}, "dear", 2, "pinned"),
        ({"choose_seconds": 0}, "cheap", 1, "sealed"),
        ({"choose_seconds": 0, "threads": 2}, "cheap", 2, "sealed"),
    ):
        choice = choice_of(bundle, **settings)
        assert (choice.variant, choice.threads, choice.source, choice.figures) == (variant, threads, source, ())
    assert not (home / "cache" / "choices").exists()
    with pytest.raises(BundleError, match=r"no variant 'int8'\n  It has: cheap, dear"):
        load_bundle(bundle, variant="int8")


def test_a_pinned_variant_that_answers_otherwise_does_not_load(seal_all: Seal) -> None:
    with pytest.raises(BundleError, match="differs from its golden output"):
        load_bundle(seal_all({"cheap": CHEAP, "wrong": WRONG}), variant="wrong")


def test_pinned_threads_leave_the_variant_to_be_chosen(seal_all: Seal) -> None:
    choice = choice_of(seal_all({"dear": DEAR, "cheap": CHEAP}), threads=1)
    assert (choice.variant, choice.threads, choice.source) == ("cheap", 1, "measured")
    assert {f.threads for f in choice.figures} == {1}


def test_where_none_keeps_the_contract_the_fastest_serves_with_a_warning(
    seal_all: Seal, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP}, Contract(p99_ms=1e-6))
    with caplog.at_level(logging.WARNING, "headway"):
        choice = choice_of(bundle)
    assert choice.variant == "cheap"
    assert "none keeps the contract's 99th percentile" in choice.why
    assert "no variant keeps the contract's 99th percentile here" in caplog.messages


def test_load_and_server_show_the_choice(seal_all: Seal) -> None:
    bundle = seal_all({"dear": DEAR, "cheap": CHEAP})
    with headway.load(bundle, variant="dear", threads=1) as model:
        assert (model.choice.variant, model.choice.threads, model.choice.source) == ("dear", 1, "pinned")
    with headway.load(bundle) as model:
        assert model.choice.variant == "cheap"
        np.testing.assert_allclose(model({"input": ROWS})["logits"], ROWS @ WEIGHTS, atol=1e-5)
    with Server([bundle], ServeConfig(http_port=0)).running() as server:
        assert server.models == ["m"]


def test_the_command_line_pins_and_logs(seal_all: Seal) -> None:
    bundle = seal_all({"cheap": CHEAP, "dear": DEAR})
    command = [sys.executable, "-c", "from headway.cli.main import main; main()", "serve", str(bundle.path)]
    done = subprocess.run([*command, "--variant", "int8"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "It has: cheap, dear." in done.stderr
    command += ["--http-port", "0", "--variant", "dear", "--threads", "1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        assert running.stdout.readline().startswith("serving m at")
    finally:
        running.terminate()
        _, log = running.communicate(timeout=30)
    lines = [json.loads(line) for line in log.splitlines()]
    (chosen,) = [line for line in lines if line["message"] == "variant chosen"]
    assert (chosen["variant"], chosen["threads"], chosen["source"]) == ("dear", 1, "pinned")


def figures() -> st.SearchStrategy[list[Figure]]:
    times = st.tuples(st.floats(0.01, 100), st.floats(1, 10))

    def latency(median: float, tail: float) -> Latency:
        return Latency(p50=median, p90=median, p99=median * tail, p99_low=median, p99_high=None, runs=9)

    figure = st.builds(
        lambda variant, threads, time: Figure(variant=variant, threads=threads, latency_ms=latency(*time)),
        st.sampled_from("abc"),
        st.sampled_from([1, 2]),
        times,
    )
    return st.lists(figure, min_size=1, max_size=6)


@given(figures(), st.none() | st.floats(0.01, 200))
def test_the_best_keeps_the_contract_wherever_one_does_and_is_next_to_the_fastest(
    measured: list[Figure], p99_ms: float | None
) -> None:
    chosen, why = best(measured, p99_ms)
    within = [f for f in measured if p99_ms is None or f.latency_ms.p99 <= p99_ms]
    pool = within or measured
    least = min(f.latency_ms.p50 for f in pool)
    assert chosen in pool
    assert chosen.latency_ms.p50 <= 1.05 * least
    assert not [f for f in pool if f.latency_ms.p50 <= chosen.latency_ms.p50 and f.threads < chosen.threads]
    assert ("none keeps" in why) == (not within)
