"""What a bundle or a recipe needs, against what is here. Nothing of a user's is imported or run."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headway.bundles.bundle import Bundle
from headway.bundles.manifest import Variant
from headway.core import machine, plugins
from headway.core.config import Source, read_yaml, validate
from headway.core.files import is_file
from headway.core.machine import Machine
from headway.doctor.finding import Finding, fail, megabytes, ok, warn
from headway.doctor.packages import installed, unmet
from headway.doctor.probe import Probe
from headway.doctor.rules import Rules
from headway.doctor.system import listening, space
from headway.processing.declaration import Processing
from headway.serve.config import ServeConfig


def of_bundle(bundle: Bundle, probe: Probe, rules: Rules, here: Machine) -> list[Finding]:
    """Whether this bundle can be served here, and as it was measured."""
    manifest = bundle.manifest
    size = sum(record.size for record in manifest.files.values())
    found = [
        _runtimes(bundle, probe, rules),
        *_stages("bundle", manifest.processing, probe, manifest.lineage.packages),
        *_memory(bundle, probe),
        *_int8(manifest.variants, here),
        _disk(probe, size, "a copy of the bundle, which is what is loaded"),
        *_ports(),
    ]
    if manifest.created.astimezone(UTC) > datetime.now(UTC):
        words = f"it was sealed at {manifest.created:%F %T}, which is still to come"
        found.append(warn("bundle", "clock", words, "Set this machine's clock, or the one where it was sealed."))
    return found


def of_recipe(path: Path, probe: Probe, rules: Rules) -> list[Finding]:
    """Whether this recipe can be shipped here, as far as its text tells.

    Raises:
        ConfigError: it is no sound recipe.
    """
    from headway.shipping.recipe import RecipeConfig

    data, source = read_yaml(path)
    config = validate(RecipeConfig, data, source)
    missing, wrong = unmet(probe, rules, "ship")
    lacks = ", ".join(missing + wrong)
    found = [
        fail("recipe", "headway[ship]", f"lacks {lacks}", "pip install 'headway[ship]'")
        if lacks
        else ok("recipe", "headway[ship]", "installed")
    ]
    steps = [name for step in config.steps for name in ([step] if isinstance(step, str) else step)]
    if unknown := [name for name in steps if name not in plugins.names("headway.steps")]:
        found.append(fail("recipe", "steps", f"nobody offers {', '.join(unknown)}", "Install what offers them."))
    base, size = path.resolve().parent, 0
    found += _stages("recipe", _declared(config.processing, source, base), probe, {})
    for file in (config.model.weights, config.model.onnx) if config.model else ():
        if file is not None and not is_file(base / file):
            found.append(fail("recipe", "model", f"no such file: {base / file}", "Check the path in the recipe."))
        elif file is not None:
            size = (base / file).stat().st_size
    found.append(_task(config.task.use, base))
    found.append(_disk(probe, size * (1 + len(steps)), "the model's file and one for each step"))
    words = "what training takes is known once it runs; the machine's is above"
    return [*found, ok("recipe", "memory", words)]


def _runtimes(bundle: Bundle, probe: Probe, rules: Rules) -> Finding:
    offered = plugins.names("headway.runtimes")
    manifest = bundle.manifest
    lost = {v.id: v.runtime for v in manifest.variants if v.runtime not in offered}
    lost |= {v.id: v.runtime for v in manifest.variants if v.runtime in rules.brings}
    lost = {id_: name for id_, name in lost.items() if name not in offered or not installed(probe, rules, name)}
    if not lost:
        names = sorted({variant.runtime for variant in manifest.variants})
        return ok("bundle", "runtimes", f"{', '.join(names)}; --run tries them")
    words = ", ".join(f"{id_} needs {name}, which is not installed" for id_, name in lost.items())
    fix = f"pip install {' '.join(sorted(set(lost.values())))}"
    if len(lost) < len(manifest.variants):
        return warn("bundle", "runtimes", f"{words}; the other variants can serve", fix)
    return fail("bundle", "runtimes", words, fix)


def _declared(given: str | dict[str, Any] | None, source: Source, base: Path) -> Processing | None:
    """The processing that a recipe declares, there or in a file beside it."""
    from headway.shipping.processing import Declaration

    if given is None:
        return None
    if isinstance(given, str):
        return Declaration.load(base / given).declared
    return Declaration.of(given, source, base, ("processing",)).declared


def _stages(area: str, processing: Processing | None, probe: Probe, lineage: Mapping[str, str]) -> list[Finding]:
    """The packages of its processing; `lineage` has the versions that it was sealed with."""
    stages = [stage for _, chain in processing.chains() for stage in chain] if processing is not None else []
    extras = {stage.extra: stage.package for stage in stages if stage.extra}
    found = []
    for extra, package in extras.items():
        sealed = lineage.get(package.lower())
        have = probe.packages.get(package.lower())
        if have is None:
            words, fix = f"its stages need {package}, which is not installed", f"pip install 'headway[{extra}]'"
            found.append(fail(area, "processing", words, fix))
        elif sealed not in (None, have.version):
            words = f"{package} {have.version}, where it was sealed with {sealed}: its golden samples decide"
            found.append(warn(area, "processing", words, f"If they fail: pip install {package}=={sealed}"))
        else:
            found.append(ok(area, "processing", f"{package} {have.version}"))
    return found


def _memory(bundle: Bundle, probe: Probe) -> list[Finding]:
    """What was measured where it was sealed; a packed model has no figures, and takes its file's size at least."""
    manifest = bundle.manifest
    _, free = machine.memory(probe.root)
    needs = {v.id: _peak(bundle, v) for v in manifest.variants}
    chosen = manifest.variant()
    how = "measured" if chosen.scorecard else "the size of its file; more is not known"
    found = f"{chosen.id} takes {megabytes(needs[chosen.id])} ({how}), {megabytes(free)} are free"
    if needs[chosen.id] > free:
        smaller = [id_ for id_, need in needs.items() if need <= free]
        fix = f"Serve a smaller variant (--variant {smaller[0]})" if smaller else "Free memory"
        return [fail("bundle", "memory", found, f"{fix}, or give the machine or the container more.")]
    together = sum(needs.values())
    if together > free:
        words = f"to choose among {len(needs)} variants takes {megabytes(together)} at the first start"
        fix = f"Serve without choosing: --variant {chosen.id}"
        return [ok("bundle", "memory", found), warn("bundle", "memory", words, fix)]
    return [ok("bundle", "memory", found)]


def _peak(bundle: Bundle, variant: Variant) -> float:
    """Bytes."""
    if variant.scorecard is not None:
        return variant.scorecard.peak_memory_mb * 1e6
    return bundle.manifest.files[variant.file].size


def _int8(variants: tuple[Variant, ...], here: Machine) -> list[Finding]:
    """8-bit variants that were measured where products are summed otherwise."""
    found = []
    for variant in variants:
        card = variant.scorecard
        if card is None or not variant.precision.startswith("int8"):
            continue
        there = card.machine.int8
        if there.weight_range == "full" and here.int8.weight_range == "reduced":
            words = f"{variant.id} was measured with {card.machine.cpu}, where {there.reason}; here, {here.int8.reason}"
            fix = "Serve another variant if its golden samples fail here, or ship on a processor like this one."
            found.append(warn("bundle", "int8", words, fix))
    return found


def _disk(probe: Probe, need: int, what: str) -> Finding:
    free = space(probe)
    if free is None:
        return fail("disk", "room", "HEADWAY_HOME cannot be used", "See HEADWAY_HOME above.")
    found = f"{megabytes(need)} for {what}; {megabytes(free)} are free"
    if need > free:
        return fail("disk", "room", found, "Free space, or set HEADWAY_HOME to a folder on a larger disk.")
    return ok("disk", "room", found)


def _ports() -> list[Finding]:
    """Of the server's defaults; another server that is to be replaced listens there as well."""
    ports = {"--http-port": "http_port", "--grpc-port": "grpc_port"}
    busy = [(option, ServeConfig.model_fields[field].default) for option, field in ports.items()]
    return [
        warn("system", "ports", f"something listens on {port} already", f"headway serve {option} OTHER")
        for option, port in busy
        if listening(port)
    ]


def _task(use: str, base: Path) -> Finding:
    """Whether the task's file or package is there. A package's own modules are not looked for: that imports it."""
    name, _, _ = use.rpartition(":")
    if name.endswith(".py"):
        there, what = is_file(base / name), f"file {base / name}"
    else:
        top = name.partition(".")[0]
        there = bool(top) and (_importable(top) or (base / top).is_dir() or is_file(base / f"{top}.py"))
        what = f"package {top}"
    if there:
        return ok("recipe", "task", f"{use}: there; it is not run, so that it works is for `headway ship` to find")
    return fail("recipe", "task", f"{use}: there is no {what}", "Check `task.use` in the recipe.")


def _importable(top: str) -> bool:
    """Whether there is such a package; one that has no dot in its name is found without importing anything."""
    try:
        return find_spec(top) is not None
    except ValueError:  # `__main__`
        return False
