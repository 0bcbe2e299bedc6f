"""The processing that a user declares, from the file they write to what is sealed."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from headway.bundles.processing import Prepared, RawSample, as_rows, file_path
from headway.core.config import Place, Source, read_yaml, validate
from headway.core.errors import ConfigError, DataError, RequestError
from headway.core.files import digest_file, digest_json, is_file, is_folder
from headway.core.tensors import TensorSpec
from headway.processing.declaration import Name, Processing
from headway.processing.pictures import Crop
from headway.processing.pipeline import Pipeline
from headway.processing.stage import Kit
from headway.processing.texts import Tokenize

_ROWS = 8  # of golden samples, which are replayed at every load
_MOST_BYTES = 16 << 20  # of them together
# What samples are made of where none are given: several scripts, a long word, numbers, no spaces.
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Éric's naïve café costs 3,50 € — “cheap”, isn't it?",
    "漢字かな交じり文 and Кириллица 🙂",
    "antidisestablishmentarianism " * 40,
)
_SMALLEST = 240  # pixels of a picture's side


class Declared(Processing):
    """The file: a declaration, and what is to be sealed as proof of it."""

    samples: dict[Name, str] = Field(
        {},
        description="By declared input, golden samples: a folder with one picture or text a file (the first 8 by name),"
        " or one picture, or a file with a text on each line. Without it they are made up.",
    )


@dataclass(frozen=True)
class Declaration:
    """A declaration as it was written.

    Attributes:
        base: the folder that its files lie in.
        prefix: where in `source` it stands.
    """

    declared: Declared
    source: Source
    base: Path
    prefix: Place = ()

    @classmethod
    def load(cls, path: Path) -> "Declaration":
        """Read a YAML file. Raises `ConfigError` with `file:line` of every mistake."""
        data, source = read_yaml(path)
        return cls(validate(Declared, data, source), source, path.resolve().parent)

    @classmethod
    def of(cls, data: Any, source: Source, base: Path, prefix: Place) -> "Declaration":
        """What stands at `prefix` of another file. Raises `ConfigError`."""
        return cls(validate(Declared, data, source, prefix), source, base, prefix)

    def prepare(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], labels: tuple[str, ...]) -> Prepared:
        """Check the declaration against the model, open its stages, and put the golden samples through them.

        Raises:
            ConfigError: it does not hold together, does not fit the model, or names files that are not there.
            FormatError: a file is not what it should be.
            DataError: a sample cannot be processed.
            MissingDependencyError: a package that a stage needs is not installed.
        """
        files = {name: self._file(("inputs", name), file) for name, file in self.declared.files().items()}
        opened = self.declared.with_files({name: str(file) for name, file in files.items()})
        kit = Kit({spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}, labels)
        pipeline = Pipeline(opened, kit, self._place)
        if unknown := sorted(set(self.declared.samples) - set(opened.inputs)):
            raise ConfigError(f"samples of {unknown[0]!r}, which is no declared input", where=self._place(("samples",)))
        golden = {name: self._golden(name, pipeline) for name in opened.inputs}
        sealed = opened.with_files({name: file_path(name) for name in files})
        return Prepared(sealed, {file_path(name): file for name, file in files.items()}, golden)

    def _place(self, path: Place) -> str:
        return self.source.place((*self.prefix, *path))

    def _file(self, path: Place, name: str) -> Path:
        """A file or folder that the declaration names. It came with the declaration, perhaps from a stranger."""
        file = (self.base / name).resolve() if "\0" not in name else self.base
        if not file.is_relative_to(self.base) or file == self.base:
            raise ConfigError(f"{name!r} is not inside {self.base}", where=self._place(path), remedy="Copy it there.")
        if not is_file(file) and not is_folder(file):
            raise ConfigError(f"no such file: {file}", where=self._place(path))
        return file

    def _golden(self, name: str, pipeline: Pipeline) -> RawSample:
        chain = self.declared.inputs[name]
        text = any(isinstance(stage, Tokenize) for stage in chain)
        if (given := self.declared.samples.get(name)) is not None:
            path = self._file(("samples", name), given)
            where, rows = str(path), tuple(_given(path, text=text))
        else:
            least = max([_SMALLEST, *(max(s.height, s.width) for s in chain if isinstance(s, Crop))])
            where = f"{self._place(('inputs', name))}: made-up samples"
            rows = tuple(text.encode() for text in _TEXTS) if text else tuple(_pictures(least))
        if not rows or sum(map(len, rows)) > _MOST_BYTES:
            raise DataError(f"no samples, or more than {_MOST_BYTES >> 20} MB of them", where=where)
        try:
            return RawSample(rows, pipeline.before({name: as_rows(rows)}))
        except RequestError as error:
            remedy = "Give samples that suit the model, under `samples:` in the declaration."
            raise DataError(f"{error.where}: {error.message}", where=where, remedy=remedy) from error


def digest(prepared: Prepared) -> str:
    """SHA-256 of everything that is sealed of a declaration."""
    return digest_json(
        {
            "processing": prepared.processing.model_dump(mode="json"),
            "files": {name: digest_file(file) for name, file in prepared.files.items()},
            "golden": {name: [row.hex() for row in sample.rows] for name, sample in prepared.golden.items()},
        }
    )


def _given(path: Path, *, text: bool) -> Iterator[bytes]:
    """Rows from a folder, or from a file."""
    if is_folder(path):
        files = sorted(file for file in path.iterdir() if is_file(file) and not file.is_symlink())
        yield from (_read(file) for file in files[:_ROWS])
    elif text:
        yield from [line for line in _read(path).splitlines() if line.strip()][:_ROWS]
    else:
        yield _read(path)


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"more than {_MOST_BYTES >> 20} MB", where=str(file))
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _pictures(side: int) -> Iterator[bytes]:
    """A JPEG and a PNG, in colour: soft shapes, so that neither is large."""
    from PIL import Image

    down, across = np.mgrid[0:side, 0 : side * 4 // 3] * (12 / side)
    for number, kind in enumerate(("JPEG", "PNG")):
        waves = [np.sin(down * (1 + c) + number) + np.cos(across * (3 - c)) for c in range(3)]
        picture = (np.stack(waves, axis=-1) * 60 + 127).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, kind)
        yield stream.getvalue()
