"""Which tensors of a layer hold its channels, how channels are cut out, and how a record of cuts is replayed.

A record names, for each side of each layer that was cut, the channels kept, numbered as in the untouched module. So it
needs neither a trace nor an example to be replayed, and cuts of several rounds come down to one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from headway.core.errors import WeightsError

Side = Literal["out", "in", "both"]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class Place:
    """A side of a layer.

    Attributes:
        name: the layer.
        side: `both` where inputs and outputs are the same channels (norms, depthwise convolutions).
    """

    name: str
    side: Side


@dataclass(frozen=True)
class Axis:
    """A tensor's dimension that counts a side's channels.

    Attributes:
        tensor: its name within the layer.
        dim: the dimension.
        share: channels for each index, where a grouped convolution's weight counts only one group's inputs.
    """

    tensor: str
    dim: int
    share: int = 1


def axes(module: nn.Module, side: Side) -> tuple[Axis, ...] | None:
    """The tensors that a cut of `side` goes through; None where such a layer cannot be cut."""
    if parametrize.is_parametrized(module):
        return None
    if isinstance(module, _CONVOLUTIONS):
        return _convolution_axes(module, side)
    if isinstance(module, nn.Linear) and side != "both":
        return (Axis("weight", 0), Axis("bias", 0)) if side == "out" else (Axis("weight", 1),)
    if side != "both":
        return None
    if isinstance(module, _BATCH_NORMS + _INSTANCE_NORMS):
        return tuple(Axis(name, 0) for name in ("weight", "bias", "running_mean", "running_var"))
    if isinstance(module, nn.GroupNorm):
        return Axis("weight", 0), Axis("bias", 0)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return Axis("weight", 0), Axis("bias", 0)
    if isinstance(module, nn.PReLU):
        return (Axis("weight", 0),) if module.num_parameters > 1 else ()
    if isinstance(module, nn.Embedding):
        return (Axis("weight", 1),)
    return None


def is_convolution(module: nn.Module) -> bool:
    """Of any number of dimensions, transposed or not."""
    return isinstance(module, _CONVOLUTIONS)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel is made of its own input channel alone."""
    return isinstance(module, _CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels > 1


def _convolution_axes(module: Any, side: Side) -> tuple[Axis, ...] | None:
    if is_depthwise(module):
        return (Axis("weight", 0), Axis("bias", 0)) if side == "both" else None
    if side == "both" or (module.transposed and module.groups > 1):
        return None
    out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
    return (Axis("weight", out_dim), Axis("bias", 0)) if side == "out" else (Axis("weight", in_dim, module.groups),)


def groups(module: nn.Module) -> int:
    """Into how many equal groups the layer's channels fall; each group must lose as many as the others."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, _CONVOLUTIONS) and not is_depthwise(module) else 1


def width(module: Any, side: Side) -> int:
    """Channels of a side."""
    if isinstance(module, _CONVOLUTIONS):
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    names = {nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters", nn.Embedding: "embedding_dim"}
    return int(
        getattr(module, next((name for kind, name in names.items() if isinstance(module, kind)), "num_features"))
    )


def cut(model: nn.Module, place: Place, kept: Sequence[int]) -> None:
    """Keep only the channels `kept`, in ascending order, of a side of a layer, in place.

    Raises:
        WeightsError: there is no such layer, or it has no such channels.
    """
    try:
        module = model.get_submodule(place.name)
    except AttributeError as error:
        raise _misfit("the model has no such layer", place.name) from error
    found = axes(module, place.side)
    if found is None:
        raise _misfit(f"a {type(module).__name__} has no such channels", place.name)
    if kept and kept[-1] >= width(module, place.side):
        raise _misfit(f"channel {kept[-1]} is to be kept of {width(module, place.side)}", place.name)
    for axis in found:
        tensor = getattr(module, axis.tensor)
        if tensor is not None:
            setattr(module, axis.tensor, _narrowed(tensor, axis.dim, kept[: len(kept) // axis.share]))
    if found:
        _resize(module, place.side, len(kept))


def replay(
    model: nn.Module, layers: Iterable[Mapping[str, Any]], counts: Iterable[Mapping[str, Any]] = ()
) -> nn.Module:
    """Cut an untouched module as a record says.

    Args:
        model: the module.
        layers: for each side of a layer, the channels kept.
        counts: for each attribute that a module keeps its heads in, what it is now.

    Raises:
        WeightsError: the module is not the one that the record was made of.
    """
    for layer in layers:
        cut(model, Place(layer["name"], layer["side"]), layer["kept"])
    for count in counts:
        _set_count(model, count["module"], count["attribute"], count["value"])
    return model


def _set_count(model: nn.Module, name: str, attribute: str, value: int) -> None:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise _misfit("the model has no such layer", name) from error
    before = vars(module).get(attribute)
    if type(before) is not int or not 0 < value <= before:
        raise _misfit(f"{attribute} is to be {value} and is {before!r}", name)
    setattr(module, attribute, value)


def _misfit(message: str, name: str) -> WeightsError:
    return WeightsError(
        f"{message}: the record is of another model", where=name, remedy="Check the task's model factory."
    )


def _narrowed(tensor: torch.Tensor, dim: int, kept: Sequence[int]) -> torch.Tensor:
    index = torch.tensor(kept, dtype=torch.long, device=tensor.device)
    fresh = tensor.detach().index_select(dim, index).contiguous()
    return nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh


def _resize(module: nn.Module, side: Side, channels: int) -> None:
    """Bring the layer's own counts in line with its tensors."""
    if isinstance(module, _CONVOLUTIONS):
        if is_depthwise(module):
            module.in_channels = module.out_channels = module.groups = channels
        elif side == "out":
            module.out_channels = channels
        else:
            module.in_channels = channels
    elif isinstance(module, nn.Linear):
        setattr(module, "out_features" if side == "out" else "in_features", channels)
    elif isinstance(module, _BATCH_NORMS + _INSTANCE_NORMS):
        module.num_features = channels
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = channels
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (channels,)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = channels
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = channels
