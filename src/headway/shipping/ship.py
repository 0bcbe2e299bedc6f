"""`headway ship`: from a recipe to a sealed, signed, registered bundle, or to an honest refusal."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample, replay
from headway.bundles.manifest import Scorecard, Variant
from headway.bundles.padding import check_padding
from headway.bundles.processing import Prepared, open_processing
from headway.bundles.seal import Draft, check_target, seal
from headway.core import machine, plugins
from headway.core.errors import TaskError
from headway.core.files import atomic_folder, digest_file, exclusive, folder_lock, write_atomic
from headway.core.progress import SILENT, Progress
from headway.core.tensors import TensorSpec
from headway.registry.registry import Registry
from headway.runtimes.formats import require_whole_onnx
from headway.runtimes.runtime import DEFAULT, Runtime, Session
from headway.serve.padding import Padding, refuted
from headway.shipping import gate
from headway.shipping.build import Builder, identify
from headway.shipping.evaluate import (
    EAGER,
    FILE,
    METHOD,
    Evaluation,
    Original,
    Subject,
    evaluate,
    golden,
    open_subjects,
    specs,
    usable_runtimes,
)
from headway.shipping.forms import build_all
from headway.shipping.golden_inputs import own_tolerance, with_own
from headway.shipping.lineage import lineage, recorded
from headway.shipping.plan import UNCHANGED, plans
from headway.shipping.processing import Declaration, digest
from headway.shipping.recipe import Recipe
from headway.shipping.report import render
from headway.shipping.search.result import SearchResult
from headway.shipping.search.search import Search, open_space
from headway.shipping.slower import explain
from headway.shipping.store import Store, ship_cache
from headway.shipping.verdict import Judged, ShipResult, Verdict, best

_STATUS = {"shipped": "finished", "refused": "refused", "insufficient": "insufficient"}


def ship(
    recipe: Recipe | Path | str,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    register: bool = True,
    progress: Progress = SILENT,
) -> ShipResult:
    """Take a model down the whole road.

    Args:
        recipe: a recipe or the path of one.
        out: the bundle's folder; by default the recipe's name, in the current folder.
        overrides: `key.key=value` texts that win over the recipe's file.
        fresh: take nothing from earlier runs.
        register: add a shipped bundle to the registry.
        progress: told of long work.

    Raises:
        UsageError: the recipe, the task, the data or the weights are wrong; nothing was written to `out`.
        MissingDependencyError: a package of the `ship` extra is not installed.
    """
    try:
        import torch  # noqa: F401  (everything below needs it; better said before any work)
    except ModuleNotFoundError as error:
        raise plugins.missing("torch", needed_by="headway ship") from error
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe, overrides)
    folder = Path(out or recipe.config.name).resolve()
    check_target(folder)
    with exclusive(folder_lock(folder), str(folder)):
        return _Road(recipe, folder, fresh=fresh, register=register, progress=progress).recorded()


class _Road:
    """One ship, from a checked recipe to its verdict."""

    def __init__(self, recipe: Recipe, out: Path, *, fresh: bool, register: bool, progress: Progress) -> None:
        from headway.tasks.checks import check
        from headway.tasks.loading import load_task, source_digest

        self.recipe, self.out, self.register, self.progress = recipe, out, register, progress
        if recipe.onnx is not None:
            require_whole_onnx(recipe.onnx)
        self.space = open_space(recipe) if recipe.auto is not None else None
        asked = recipe.config.task
        self.task = load_task(asked.use, asked.args, recipe.base)
        check(self.task, progress)
        self.identity = identify(recipe, self.task, source_digest(asked.use, recipe.base))
        self.store = Store(ship_cache(), progress, fresh=fresh)
        self.contract = recipe.config.target.contract()
        self.runtimes = usable_runtimes(recipe.config.target)
        self.prepared = self._prepared(recipe.processing) if recipe.processing is not None else None

    def recorded(self) -> ShipResult:
        """Travel, and leave a record of it that stays whatever becomes of the run."""
        with recorded("ship", self.recipe, self.identity) as run:
            self.builder = Builder(self.recipe, self.task, self.identity, self.store, self.progress, run)
            result = self.travel()
            run.end(_STATUS[result.verdict], result=_came_of_it(result))
        return result

    def travel(self) -> ShipResult:
        """Build, measure, judge, and seal or refuse."""
        with ExitStack() as open_sessions:
            original = self._original(open_sessions)
            search = self._search(original)
            asked = plans(self.recipe.steps) if search is None else (UNCHANGED, *search.finalists.values())
            built = build_all(self.builder, asked, self.runtimes, self.progress)
            subjects = open_subjects(built, self.runtimes, self.recipe.config.target, open_sessions)
            evaluation, key = self._evaluation(original, subjects)
            example = self.builder.example(1)
            slower = explain(
                evaluation.over_parent, subjects, example, self.recipe.config.target, self.store, self.progress
            )
            judged = {id_: self._judge(subject, evaluation.cards[id_]) for id_, subject in subjects.items()}
            training = self.builder.trained()
            passed = {id_: j for id_, j in judged.items() if j.gate.outcome == "pass"}
            nearest = best(passed) if passed else max(judged, key=lambda id_: judged[id_].margin)
            if not passed:
                undecided = any(j.gate.outcome == "insufficient" for j in judged.values())
                verdict: Verdict = "insufficient" if undecided else "refused"
                report = self.out.with_name(self.out.name + ".refused.html")
                write_atomic(
                    report, render(self.recipe, verdict, None, nearest, judged, evaluation, slower, training, search)
                )
                return ShipResult(
                    verdict, None, None, None, nearest, report, judged, evaluation, slower, training, search
                )
            html = render(self.recipe, "shipped", nearest, nearest, judged, evaluation, slower, training, search)
            bundle = self._seal(original.session, subjects, evaluation, passed, nearest, html, key, search)
        version = Registry().add(bundle).version if self.register else bundle.manifest.version
        report = self.out / "report.html"
        return ShipResult(
            "shipped", self.out, version, nearest, nearest, report, judged, evaluation, slower, training, search
        )

    def _search(self, original: Original) -> SearchResult | None:
        if self.space is None:
            return None
        return Search(self.space, self.task, self.identity, self.store, original, self.progress).run()

    def _prepared(self, declaration: Declaration) -> Prepared:
        """The processing, held against the model as it is before any training: its shapes stay."""
        with ExitStack() as stack:
            session: Session
            if self.recipe.onnx is not None:
                session = plugins.load("headway.runtimes", DEFAULT)().load(self.recipe.onnx)
            else:
                from headway.runtimes.torch_eager import TorchEagerSession
                from headway.tasks.factory import build_model

                session = TorchEagerSession(build_model(self.task), specs(self.task), self.task.output_names)
            stack.callback(session.close)
            return declaration.prepare(session.inputs, session.outputs, self.task.labels)

    def _original(self, stack: ExitStack) -> Original:
        threads = self.recipe.config.target.threads
        session: Session
        if self.recipe.onnx is not None:
            session = plugins.load("headway.runtimes", DEFAULT)().load(self.recipe.onnx, threads=threads)
            self._check_inputs(session)
            name = FILE
        else:
            from headway.runtimes.torch_eager import TorchEagerSession

            session = TorchEagerSession(self.builder.original(), specs(self.task), self.task.output_names, threads)
            name = EAGER
        stack.callback(session.close)
        return Original(session, name, self.builder.original_weights())

    def _check_inputs(self, session: Session) -> None:
        want, have = specs(self.task), session.inputs
        if {s.name: s.datatype for s in want} != {s.name: s.datatype for s in have} or not all(
            h.admits((1, *w.shape[1:])) and h.batched for w in want for h in have if h.name == w.name
        ):
            raise TaskError(
                f"the ONNX file takes {_listed(have)}, and the task's data is {_listed(want)}",
                where=str(self.recipe.onnx),
                remedy="Name and shape the task's inputs as the file has them; its first dimension must vary (batch).",
            )

    def _evaluation(self, original: Original, subjects: Mapping[str, Subject]) -> tuple[Evaluation, dict[str, Any]]:
        target = self.recipe.config.target
        candidates = sum(bool(subject.built.plan.steps) for subject in subjects.values())
        confidence = gate.shared_confidence(target.confidence, candidates)
        key = {
            "identity": self.identity.key(),
            "original": digest_file(original.file),
            "files": {id_: subject.built.digest for id_, subject in subjects.items()},
            "runtimes": {runtime.name: runtime.available().detail for runtime in self.runtimes},
            "threads": target.threads,
            "seconds": target.seconds,
            "confidence": confidence,
            "method": METHOD,
            "machine": machine.here().model_dump(mode="json"),
        }

        def measure(out: Path, scratch: Path) -> None:
            found = evaluate(original, subjects, self.task, target, confidence, self.progress)
            write_atomic(out / "evaluation.json", found.model_dump_json())

        folder = self.store.stage("evaluation", key, measure)
        text = (folder / "evaluation.json").read_text(encoding="utf-8")
        return Evaluation.model_validate_json(text), key

    def _judge(self, subject: Subject, card: Scorecard) -> Judged:
        found = gate.findings(card, self.contract, changed=bool(subject.built.plan.steps))
        return Judged(subject.built, subject.runtime, card, found)

    def _seal(
        self,
        session: Session,
        subjects: Mapping[str, Subject],
        evaluation: Evaluation,
        passed: Mapping[str, Judged],
        chosen: str,
        html: str,
        key: Mapping[str, Any],
        search: SearchResult | None,
    ) -> Bundle:
        """Seal what passed, or take the same bundle from an earlier run, and put a copy at `out`."""
        samples = with_own(golden(session, self.task.parts.test), {id_: subjects[id_].session for id_ in passed})
        own = {
            id_: own_tolerance(samples, id_, subjects[id_].session, quantized=j.built.precision != "fp32")
            for id_, j in passed.items()
        }
        draft = Draft(
            name=self.recipe.config.name,
            version=Registry().next_version(self.recipe.config.name) if self.register else "1",
            inputs=subjects[chosen].session.inputs,
            outputs=subjects[chosen].session.outputs,
            labels=self.task.labels,
            variants=tuple(_variant(id_, j, evaluation, own[id_]) for id_, j in passed.items()),
            chosen=chosen,
            contract=self.contract,
            lineage=lineage(
                self.recipe,
                self.identity,
                {id_: j.built.records for id_, j in passed.items()},
                search.summary() if search is not None else {},
            ),
            padding=self._padding(subjects[chosen].session, samples, evaluation.tolerances[chosen]),
        )
        models = {id_: j.built.files for id_, j in passed.items()}

        def build(out: Path, scratch: Path) -> None:
            made = seal(out / "bundle", draft, models=models, golden=samples, report=html, processing=self.prepared)
            prove(made)

        asked = {"key": key, "recipe": self.recipe.config.model_dump(mode="json"), "register": self.register}
        if search is not None:
            asked["search"] = search.document()
        if self.prepared is not None:
            asked["processing"] = digest(self.prepared)
        sealed = self.store.stage("bundle", asked, build) / "bundle"
        with atomic_folder(self.out) as fresh:
            for file in (path for path in sealed.rglob("*") if path.is_file()):
                copy = fresh / file.relative_to(sealed)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            prove(Bundle.open(fresh))
        return Bundle.open(self.out)

    def _padding(self, session: Session, samples: Sequence[Sample], tolerance: Mapping[str, float]) -> dict[str, float]:
        """What the task declares of padding, where it holds for the chosen variant."""
        if not self.task.padding:
            return {}
        try:
            check_padding(session.inputs, session.outputs, self.task.padding)
        except ValueError as error:
            raise TaskError(str(error), where="padding") from error
        reason = refuted(Padding(session.inputs, session.outputs, self.task.padding), session, samples, tolerance)
        if reason:
            self.progress.say(f"requests of different lengths will not share a run: {reason}")
        return {} if reason else dict(self.task.padding)


def prove(bundle: Bundle) -> None:
    """Verify a bundle and replay its golden samples through its stages and the chosen variant, as loading it will.

    Raises:
        TamperedError: a file is not what was sealed.
        BundleError: the answers are not the sealed ones.
        FormatError: the variant's file cannot be loaded from the bundle.
    """
    bundle.verify()
    open_processing(bundle)
    manifest = bundle.manifest
    chosen = manifest.variant()
    runtime: Runtime = plugins.load("headway.runtimes", chosen.runtime)()
    device = (manifest.contract.devices or ("cpu",))[0]
    session = runtime.load(bundle.model_file(chosen), device=device, threads=manifest.contract.threads)
    try:
        replay(bundle, chosen, session)
    finally:
        session.close()


def _came_of_it(result: ShipResult) -> dict[str, Any]:
    """What the run's record keeps of a result."""
    card = result.judged[result.nearest].card
    return {
        "verdict": result.verdict,
        "bundle": str(result.bundle) if result.bundle else None,
        "version": result.version,
        "variant": result.nearest,
        card.accuracy.metric: card.accuracy.value,
        "speedup": card.speedup[1],
        "size_mb": card.size_mb,
        "report": str(result.report),
        "training": {key: result.training.get(key) for key in ("loss", "steps", "seconds", "skipped")},
    }


def _variant(id_: str, judged: Judged, evaluation: Evaluation, own: dict[str, float]) -> Variant:
    return Variant(
        id=id_,
        file="",
        format=judged.built.format,
        runtime=judged.runtime,
        precision=judged.built.precision,
        steps=tuple(step.name for step in judged.built.plan.steps),
        tolerance=evaluation.tolerances[id_],
        own_tolerance=own,
        scorecard=judged.card,
        gate=judged.gate,
    )


def _listed(specs_: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs_)
