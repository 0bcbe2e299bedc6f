"""The training loop: one clear loop, for one process or many.

Everything a step does follows from its number (`plan.py`), random numbers included, so a checkpoint is the weights, the
optimizer and that number, and a resumed run ends with the same bits as one that was never disturbed.
"""

import math
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from headway.core.errors import DataError, FormatError, TaskError
from headway.core.files import digest_json
from headway.core.progress import SILENT, Bar, Progress
from headway.tasks import Task
from headway.tasks.parts import Indices, Part
from headway.tasks.seeding import reseed, seeded
from headway.train import checkpoint, dcp
from headway.train.blocks import recomputed
from headway.train.config import HealthConfig, TrainConfig
from headway.train.finite import why_not_finite
from headway.train.health import Health
from headway.train.loader import DRAWS_MODEL, Loader
from headway.train.monitor import Monitor, StepDone
from headway.train.objective import Objective
from headway.train.optimizer import adamw_or_sgd, with_gradients
from headway.train.parallel import copied, gather, gradients, sharded, whole
from headway.train.plan import Plan
from headway.train.precision import Precision, choose
from headway.train.result import Epoch, TrainResult
from headway.train.scope import Interrupts, threads
from headway.train.traffic import Traffic
from headway.train.world import ALONE, World

_INDECISIVE = {
    "checkpoint_seconds",
    "threads",
    "device",
    "precision",
    "parallel",
    "checkpoint_activations",
    "keep_checkpoints",
    "health",
    "loader",
    "log",
}
_WAITS = 0.1  # share of the time from which waiting for data is worth a word
_LEAST_SCALE = 2.0**-10  # fp16 gradients that overflow even so are not an accident of one batch


def fit(
    model: torch.nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    folder: Path | None = None,
    progress: Progress = SILENT,
    title: str = "train",
    monitors: Sequence[Monitor] = (),
    world: World = ALONE,
) -> TrainResult:
    """Train `model` in place on the task's training part; it comes back in evaluation mode, on the device it was on.

    The same model, data, configuration and thread count give the same weights on the same machine. The caller's random
    numbers and thread count are as before afterwards.

    Args:
        model: what to train; parameters that need no gradient are left alone.
        folder: where checkpoints lie. A run that finds one of its own goes on from there, and one that was finished
            returns at once; another run's, or a damaged one, is passed over. None keeps no checkpoints.
        title: of the progress bar.
        monitors: told of every step, beside the one that `config.health` asks for.
        world: the processes that train together; each calls this with the same model, task and configuration.

    Raises:
        DataError: the training part is empty, or a batch holds NaN or infinity.
        TaskError: the loss or a gradient is no longer finite, `config.health` stops the run, or the user's code raises.
        ConfigError: there is no such device here.
        StorageError: a checkpoint could not be written.
        WorkerError: another process was lost, or one that prepares batches.
    """
    if len(task.parts.train) == 0:
        raise DataError("the training part is empty", where="train")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TaskError("the model has no parameter to train", remedy="Let some parameters require a gradient.")
    home = next(model.parameters()).device
    with ExitStack() as scope:
        scope.enter_context(threads(config.threads))
        scope.enter_context(seeded(config.seed))  # what is drawn from then on: see `_Run.step`
        scope.enter_context(world.watch())
        scope.enter_context(recomputed(model, config.checkpoint_activations))
        run = _Run.start(model, task, config, folder, world, _health(config, world, progress, monitors))
        try:
            run.resume(progress)
            with progress.work(title, run.plan.steps) as bar:
                run.train(bar)
            gather(run.model, model)
        finally:
            run.close()
            model.to(device=home).eval()
            _lay_out(model, torch.contiguous_format)
        return run.result()


@dataclass
class _State:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    loss_sum: float = 0.0  # over the rows of this epoch
    loss_rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # for batches
    history: list[Epoch] = field(default_factory=list)


@dataclass
class _Run:
    """A run under way."""

    model: torch.nn.Module
    task: Task
    plan: Plan
    precision: Precision
    folder: Path | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    key: str
    channels_last: bool
    health: Health
    world: World
    net: torch.nn.Module
    loss: Objective
    traffic: Traffic | None
    writer: dcp.Writer | None
    state: _State = field(default_factory=_State)
    resumed: int = 0
    loader: Loader | None = None

    @classmethod
    def start(
        cls,
        model: torch.nn.Module,
        task: Task,
        config: TrainConfig,
        folder: Path | None,
        world: World,
        health: Health,
    ) -> "_Run":
        precision = choose(config)
        key = _key(model, task.parts.train, config, precision) if folder else ""
        model.to(precision.device).train()
        # Channels last: steps 1.05 (digits) to 1.2 (Fashion-MNIST) times as fast, in turn, AVX-512, one thread.
        channels_last = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
        if channels_last:
            _lay_out(model, torch.channels_last)
        model = sharded(model, world, precision)
        net, traffic = copied(model, world, config)
        return cls(
            model=model,
            task=task,
            plan=Plan(len(task.parts.train), config, _lengths(task.parts.train)),
            precision=precision,
            folder=folder,
            optimizer=adamw_or_sgd(model, config),
            scaler=torch.amp.GradScaler(precision.device.type, enabled=precision.scaled),
            key=key,
            channels_last=channels_last,
            health=health,
            world=world,
            net=net,
            loss=Objective(task, net, precision, channels_last=channels_last),
            traffic=traffic,
            writer=dcp.Writer(folder, key, world, config.keep_checkpoints) if folder and world.size > 1 else None,
        )

    def resume(self, progress: Progress) -> None:
        """Go on from the checkpoint, where there is a sound one of this very run."""
        if self.folder is None:
            return
        saved = self._several(progress) if self.writer or dcp.present(self.folder) else self._single(progress)
        if saved is None:
            return
        self.scaler.load_state_dict(saved["scaler"])
        done = saved["progress"]
        self.state = _State(**{**done, "history": [Epoch(**epoch) for epoch in done["history"]]})
        self.health.restore(saved.get("health", {}))
        self.resumed = self.state.step
        progress.say(f"going on from step {self.resumed} of {self.plan.steps}")

    def _several(self, progress: Progress) -> dict[str, Any] | None:
        assert self.folder is not None  # noqa: S101  (the caller has looked)
        found = dcp.find(self.folder, self.key, self.world, progress.say)
        if found is None:
            return None
        found.restore(self.model, self.optimizer)
        return found.state

    def _single(self, progress: Progress) -> dict[str, Any] | None:
        assert self.folder is not None  # noqa: S101  (the caller has looked)
        try:
            found = checkpoint.read(self.folder)
        except FormatError as error:
            progress.say(f"{error}\n  Training begins afresh.")
            return None
        if found is None:
            return None
        if found.run != self.key:
            progress.say(f"{self.folder / checkpoint.NAME}: of another run; training begins afresh")
            return None
        found.restore(self.model, self.optimizer)
        return found.state

    def save(self) -> None:
        """Write a checkpoint, where they are kept."""
        state = {"progress": asdict(self.state), "health": self.health.state()}
        if self.writer is not None:
            state["scaler"] = self.scaler.state_dict()
            self.writer.start(self.state.step, state, self.model, self.optimizer)
        elif self.folder is not None:
            checkpoint.write(self.folder, self.key, state, self.model, self.optimizer, self.scaler)
            dcp.clear(self.folder)

    def train(self, bar: Bar) -> None:
        """Every step that is left."""
        state, plan, config = self.state, self.plan, self.plan.config
        bar.advance(state.step)
        if state.step == plan.steps:
            return
        loader = self.loader = Loader(self.task, plan, self.world, self.precision.device, state.step)
        loader.peek()  # before the clock runs: what workers need to begin is no step's wait
        self.health.started(self.model, state.step, lambda: self.loss(loader.peek().inputs, loader.peek().targets))
        saved, before = time.monotonic(), state.seconds
        with Interrupts() as interrupts:
            while state.step < plan.steps:
                began, waited = time.monotonic(), loader.waited
                done = self.step(loader)
                done = replace(done, seconds=time.monotonic() - began, waited=loader.waited - waited)
                state.seconds += done.seconds
                state.waited += done.waited
                bar.advance(1, self._note(done, loader.waited / (state.seconds - before)))
                self.health.after_step(done)
                ended = plan.ends_epoch(state.step)
                if ended:
                    self.end_epoch()
                state.step += 1
                overdue = time.monotonic() - saved > config.checkpoint_seconds
                stop, due = self.world.agree(interrupts.pending is not None, overdue)
                if ended or stop or due:
                    self.save()
                    saved = time.monotonic()
                if self.writer is not None and (stop or state.step == plan.steps):
                    self.writer.wait()
                if stop:
                    interrupts.pending = interrupts.pending or signal.SIGTERM  # where another process was told
                    interrupts.deliver()

    def _note(self, done: StepDone, waits: float) -> str:
        mean = self.state.loss_sum / max(1, self.state.loss_rows)
        note = f"loss {mean:.4f}, {done.rows / done.seconds:,.0f} rows/s"
        return note + (f", waits {waits:.0%} for data" if waits >= _WAITS else "")

    def step(self, loader: Loader) -> StepDone:
        """One optimizer step. The loss is the mean over all rows of the step's batches."""
        batches = self.plan.batches(self.state.step)
        rows = sum(len(batch) for batch in batches)
        lr = self.plan.lr(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self.precision.device)
        for number, batch in enumerate(batches, 1):
            made = loader.take(self.state.step)
            key = self.plan.config.seed, self.world.rank, self.state.step, made.order.number, DRAWS_MODEL
            reseed(*key, device=total.device)
            with gradients(self.net, last=number == len(batches)):
                loss = self.loss(made.inputs, made.targets) * (made.order.weight * len(batch) / rows)
                if number == 1:  # not before the forward pass: memory freed there is given back and faulted in again
                    self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
            if not math.isfinite(total.item()):
                return self._broken("the loss", made.order.rows)
        total = self.world.settle(total, self.model)
        self.scaler.unscale_(self.optimizer)
        parameters = with_gradients(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        done = StepDone(self.state.step + 1, total.item(), float(whole(norm)), lr, rows)
        if math.isfinite(done.norm):
            done = replace(done, skipped=self.health.after_backward(self.state.step, done.loss, done.norm))
        elif not self.scaler.is_enabled() or self.scaler.get_scale() < _LEAST_SCALE:
            done = self._broken("a gradient", made.order.rows)
        if not done.skipped:
            if (limit := self.plan.config.clip) is not None and done.norm > limit:
                torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.state.loss_sum += total.item() * rows
        self.state.loss_rows += rows
        return done

    def _broken(self, what: str, batch: Indices) -> StepDone:
        """Leave out a step that is not finite, where that is the policy, or end the run."""
        error = why_not_finite(
            what, batch, self.model, self.task.parts.train, self.plan, self.state.step, self.precision
        )
        if not self.health.leaves_out(self.state.step, error):
            raise error
        step = self.state.step
        rows = sum(map(len, self.plan.batches(step)))
        return StepDone(step + 1, math.inf, math.inf, self.plan.lr(step), rows, skipped=True)

    def end_epoch(self) -> None:
        """Close the epoch that the current step ends."""
        state = self.state
        if not state.loss_rows:
            raise TaskError("every step of the epoch was left out", where=f"epoch {self.plan.epoch(state.step) + 1}")
        before = sum(epoch.seconds for epoch in state.history)
        done = min((state.step + 1) / self.plan.steps_per_epoch, self.plan.config.epochs)
        lr = self.plan.lr(state.step)
        state.history.append(Epoch(done, state.loss_sum / state.loss_rows, lr, state.seconds - before))
        state.loss_sum, state.loss_rows = 0.0, 0
        self.health.after_epoch(state.step + 1, state.history[-1])

    def close(self) -> None:
        """Leave no thread and no process behind."""
        if self.loader is not None:
            self.loader.close()
        if self.writer is not None:
            self.writer.close()

    def result(self) -> TrainResult:
        """What `fit` returns."""
        last = self.state.history[-1]
        return TrainResult(
            epochs=last.epochs,
            steps=self.state.step,
            loss=last.loss,
            seconds=self.state.seconds,
            precision=self.precision.name,
            device=str(self.precision.device),
            reason=self.precision.reason,
            resumed=self.resumed,
            history=tuple(self.state.history),
            findings=tuple(finding.document() for finding in self.health.findings),
            norms=tuple(self.health.norms),
            skipped=self.health.skipped,
            processes=self.world.size,
            communication=self.traffic.told(self.state.step - self.resumed) if self.traffic else None,
            waited=self.state.waited,
            workers=self.loader.workers if self.loader else 0,
        )


def _health(config: TrainConfig, world: World, progress: Progress, monitors: Sequence[Monitor]) -> Health:
    """Watches the run. Of several processes each holds a share of the tensors, and none may leave out a step alone:
    there it only passes on what happens.
    """
    watched = config.health if world.size == 1 else HealthConfig(policy="off")
    return Health(watched, progress, monitors)


def _lengths(part: Part) -> tuple[int, ...]:
    """Of each row, where the part says so."""
    return tuple(int(length) for length in getattr(part, "lengths", ()))


def _key(model: torch.nn.Module, part: Part, config: TrainConfig, precision: Precision) -> str:
    """Digest of what decides the outcome: a checkpoint of anything else is not this run's."""
    decisive = config.model_dump(mode="json", exclude=_INDECISIVE)
    decisive |= {
        "skips": config.health.policy == "skip",
        "precision": precision.name,
        "start": checkpoint.state_digest(model.state_dict()),
    }
    return digest_json({**decisive, "data": part.digest()})


def _lay_out(model: torch.nn.Module, layout: torch.memory_format) -> None:
    """Rewrite the convolutions' weights in another layout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=layout)
