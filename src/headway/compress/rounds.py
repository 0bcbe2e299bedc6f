"""Pruning in rounds: score, cut, fine-tune, keep. An interrupted run goes on with the next round.

A round that is done lies in the step's folder as weights and then a record, each whole or not at all; the record is
what makes it count. Fine-tuning keeps its own checkpoints, so an interruption in mid-round loses seconds.
"""

import copy
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headway.compress import channels, importance
from headway.compress.batchnorm import recalibrate
from headway.compress.graph import find_groups
from headway.compress.kernels import blocks as kernel_blocks
from headway.compress.pace import WHOLE, Pace
from headway.compress.prune import PruneConfig
from headway.compress.selection import Budget, select, smallest
from headway.compress.slices import Place, replay
from headway.compress.step import JsonRecord, StepContext
from headway.compress.teacher import learn, teacher_of
from headway.core.errors import TaskError
from headway.core.files import digest_file, digest_json, write_atomic
from headway.core.modules import forward
from headway.train.checkpoint import state_digest
from headway.train.loop import fit
from headway.train.weights import load_weights, save_weights

_MISS = 0.02  # how far from `keep`, as a share of the parameters, may be called reached


def prune(model: nn.Module, config: PruneConfig, context: StepContext) -> tuple[nn.Module, JsonRecord]:
    """Prune `model` in place; see `headway.compress.prune.Prune.apply`."""
    run = _Run.start(model, config, context)
    try:
        run.resume()
        while run.done < run.rounds:
            run.cut()
            run.finetune()
            run.done += 1
            run.save()
        return model, run.record()
    finally:
        if run.pace is not None:
            run.pace.close()


@dataclass
class _Run:
    """A run under way.

    Attributes:
        rounds: how many there are.
        blocks: by group, what widths become multiples of.
        before: parameters of the untouched model.
        whole: channels of each group of the untouched model.
        least: channels that stay in each group.
        teacher: whom fine-tuning learns from too.
        kept: channels of the untouched model that each side still has.
        pace: times the model, where the budget is latency.
        counted: modules and their attributes that keep a number of heads, or of their channels.
        history: of each round, the share of the parameters left and the fine-tuning's loss.
    """

    model: nn.Module
    config: PruneConfig
    context: StepContext
    key: str
    rounds: int
    blocks: dict[str, int]
    before: int
    whole: dict[str, int]
    least: dict[str, int]
    pace: Pace | None
    teacher: nn.Module | None
    kept: dict[Place, list[int]] = field(default_factory=dict)
    counted: dict[tuple[str, str], None] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    done: int = 0

    @classmethod
    def start(cls, model: nn.Module, config: PruneConfig, context: StepContext) -> "_Run":
        model.eval()
        found = find_groups(model, _forward(context, model))
        whole_heads = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
        if whole_heads:
            context.progress.say(f"pruning: nn.MultiheadAttention keeps its heads: {', '.join(whole_heads)}")
        before = _parameters(model)
        least = {group.name: math.ceil(config.least * group.channels) for group in found}
        blocks = _blocks(model, found, config, context, least)
        key = digest_json(
            {
                "config": config.model_dump(mode="json"),
                "train": context.train.model_dump(mode="json", exclude={"checkpoint_seconds", "threads"}),
                "start": state_digest(model.state_dict()),
                "data": context.task.parts.train.digest(),
                "blocks": blocks,
            }
        )
        rounds = math.ceil((1 - config.keep) / config.every - 1e-9)
        whole = {group.name: group.channels for group in found}
        pace = Pace(model, context) if config.budget == "latency" else None
        teacher = teacher_of(model, context) if config.distill is not None else None
        return cls(model, config, context, key, rounds, blocks, before, whole, least, pace, teacher)

    def resume(self) -> None:
        """Go on from the last round that is done, where there is one of this very run."""
        folder = self.context.folder
        saved = _read(folder / "round.json")
        if saved is None or saved["key"] != self.key:
            return
        weights = folder / str(saved["weights"])
        if not weights.is_file() or digest_file(weights) != saved["sha256"]:
            return
        replay(self.model, saved["layers"], saved["counts"])
        load_weights(self.model, weights)
        self.model.eval()
        self.kept = {Place(layer["name"], layer["side"]): layer["kept"] for layer in saved["layers"]}
        self.counted = {(count["module"], count["attribute"]): None for count in saved["counts"]}
        self.history, self.done = saved["history"], saved["done"]
        self.context.progress.say(f"pruning: going on after round {self.done} of {self.rounds}")

    def cut(self) -> None:
        """Take out what this round is to take."""
        model, config = self.model, self.config
        found = [g for g in find_groups(model, _forward(self.context, model)) if g.name in self.least]
        share = 1 - (1 - config.keep) * (self.done + 1) / self.rounds
        scores = self._scores(found)
        chosen = select(
            self._budget(found),
            found,
            scores,
            round(share * (self.before if self.pace is None else WHOLE)),
            blocks=self.blocks,
            least=self.least,
            scope=config.scope,
            whole=self.whole,
        )
        for group, gone in chosen:
            self.counted |= {(count.module, count.attribute): None for count in group.counts}
            for place, kept in channels.remove(model, group, gone).items():
                whole = self.kept.get(place)
                self.kept[place] = kept if whole is None else [whole[channel] for channel in kept]

    def finetune(self) -> None:
        """Train what is left for a while."""
        config, context, loss = self.config, self.context, None
        if config.finetune_epochs > 0:
            settings = context.train.model_copy(
                update={
                    "epochs": config.finetune_epochs,
                    "lr": context.train.lr * config.finetune_lr,
                    "seed": context.train.seed + self.done + 1,  # another order of the rows in each round
                }
            )
            title = f"prune {self.done + 1}/{self.rounds}"
            folder = self._finetune_folder(self.done + 1)
            told: dict[str, Any] = {"folder": folder, "progress": context.progress, "title": title}
            if config.distill is not None and self.teacher is not None:
                loss = learn(self.model, self.teacher, config.distill, context.task, settings, **told)
            else:
                loss = fit(self.model, context.task, settings, **told).loss
        recalibrate(self.model, context.task, context.train.seed + self.done, context.train.batch_size)
        self.history.append({"share": _parameters(self.model) / self.before, "loss": loss})

    def save(self) -> None:
        """Keep this round in place of the one before."""
        folder = self.context.folder
        weights = folder / f"round-{self.done}.safetensors"
        save_weights(self.model, weights)
        record = {
            "key": self.key,
            "done": self.done,
            "weights": weights.name,
            "sha256": digest_file(weights),
            "layers": self._layers(),
            "counts": self._counts(),
            "history": self.history,
        }
        write_atomic(folder / "round.json", json.dumps(record))
        (folder / f"round-{self.done - 1}.safetensors").unlink(missing_ok=True)
        shutil.rmtree(self._finetune_folder(self.done), ignore_errors=True)

    def record(self) -> JsonRecord:
        """What replays the pruning, and what it came to."""
        after = _parameters(self.model)
        self.context.progress.say(
            f"pruned to {after:,} of {self.before:,} parameters ({after / self.before:.1%}); "
            f"widths are multiples of {_several(set(self.blocks.values()))}"
        )
        timed = {} if self.pace is None else {"latency_share": self.pace.share(self.model)}
        if timed:
            self.context.progress.say(f"a run takes {timed['latency_share']:.1%} of the time it took")
        return {
            **timed,
            "layers": self._layers(),
            "counts": self._counts(),
            "parameters": {"before": self.before, "after": after},
            "share": after / self.before,
            "blocks": self.blocks,
            "rounds": self.history,
        }

    def _budget(self, found: list[channels.Group]) -> Budget:
        if self.pace is None:
            return channels.Budget(self.model, found)
        timed = self.pace.budget(self.model, found, f"latency {self.done + 1}/{self.rounds}")
        left = smallest(copy.copy(timed), found, blocks=self.blocks, least=self.least) / WHOLE
        if left > self.config.keep + _MISS:
            raise _out_of_reach(self.config, self.blocks, f"{left:.1%} of a run's time remains")
        return timed

    def _scores(self, found: list[channels.Group]) -> list[importance.Scores]:
        if self.config.importance == "l1":
            return importance.l1(self.model, found)
        title = f"importance {self.done + 1}/{self.rounds}"
        measure = importance.taylor if self.config.importance == "taylor" else importance.variance
        return measure(
            self.model, found, self.context.task, self.context.train.seed + self.done, self.context.progress, title
        )

    def _finetune_folder(self, number: int) -> Path:
        """Where the fine-tuning of round `number`, counted from 1, keeps its checkpoints."""
        return self.context.folder / f"finetune-{number}"

    def _layers(self) -> list[dict[str, Any]]:
        return [{"name": place.name, "side": place.side, "kept": kept} for place, kept in self.kept.items()]

    def _counts(self) -> list[dict[str, Any]]:
        return [
            {"module": name, "attribute": attribute, "value": getattr(self.model.get_submodule(name), attribute)}
            for name, attribute in self.counted
        ]


def _blocks(
    model: nn.Module, found: list[channels.Group], config: PruneConfig, context: StepContext, least: dict[str, int]
) -> dict[str, int]:
    """By group, what its width is brought to a multiple of; `auto` halves that until `keep` can be reached."""
    if config.align == "auto":
        here = kernel_blocks(context.machine, context.threads, context.progress)
        wanted = {group.name: 1 if group.heads else here[channels.kind(model, group)] for group in found}
    else:
        wanted = {group.name: 1 if group.heads else config.align for group in found}
    while True:
        left = smallest(channels.Budget(model, found), found, blocks=wanted, least=least) / _parameters(model)
        if left <= config.keep + _MISS or config.budget == "latency":  # time is looked at when it is known
            return wanted
        if config.align != "auto" or set(wanted.values()) == {1}:
            raise _out_of_reach(config, wanted, f"{left:.1%} of the parameters remain")
        wanted = {name: max(1, size // 2) for name, size in wanted.items()}


def _out_of_reach(config: PruneConfig, blocks: dict[str, int], remains: str) -> TaskError:
    return TaskError(
        f"keep: {config.keep} cannot be reached: with widths in multiples of {_several(set(blocks.values()))} and "
        f"{config.least:.0%} of each layer's channels left, {remains}",
        where="prune",
        remedy="Ask for more to be kept, or set a smaller align or least.",
    )


def _several(sizes: set[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


def _forward(context: StepContext, model: nn.Module) -> channels.Forward:
    inputs, _ = context.task.parts.train.batch(np.arange(min(2, len(context.task.parts.train))))
    device = next(model.parameters()).device
    tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
    names = context.task.output_names
    return lambda module: tuple(forward(module, tensors, names).values())


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _read(file: Path) -> dict[str, Any] | None:
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) and "key" in saved else None
