"""Where a run stands, on the disk: whole or not at all.

    checkpoints/step-00000200/<group>.safetensors ...   weights, optimizer, random numbers
    checkpoints/step-00000200/state.json                step, data position, config, hashes
    checkpoints/step-00000200.<word>.tmp/               being written or being deleted; never read

A folder gets its name when every byte of it is on the disk, and loses it before a byte goes. No
pickle: safetensors and JSON. state.json names the hash of every other file and, beside it,
state.sha256 the hash of state.json. Knows tensors by name, not what they mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwell.checkpoint.appear import sync
from qwell.errors import CheckpointError, StorageError
from qwell.train.files import writing

STATE, DIGEST = "state.json", "state.sha256"
Groups = Mapping[str, Mapping[str, Tensor]]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, eq=False)
class Saved:
    """One checkpoint, read and verified."""

    path: Path
    step: int
    state: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class RunCheckpoints:
    """The checkpoints of one run, newest first. keep_last and keep_best say which stay; the best
    are those of the least `loss` they were saved with."""

    folder: Path
    keep_last: int = 2
    keep_best: int = 1

    def prepare(self) -> None:
        """Makes the folder and removes what an interrupted save or deletion left. Raises
        StorageError if the folder cannot be written, before anything is computed."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"probe.{os.getpid()}.tmp"
            probe.write_bytes(b"qwell")
            probe.unlink()
            for left in self.folder.glob("*.tmp"):
                if left.is_dir():
                    shutil.rmtree(left)
                else:  # the probe of a process that was killed
                    left.unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that stand, newest first."""
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(
        self, step: int, groups: Groups, state: Mapping[str, Any], *, loss: float | None = None
    ) -> Path:
        """Writes a checkpoint, then deletes those no longer wanted. `state` is JSON.

        Raises StorageError (disk full, read-only folder); then the checkpoints from before still
        stand and nothing of this one is left."""
        final, temporary = self.path(step), self.folder / f"step-{step:08d}.new.tmp"
        self._check_room(groups)
        with writing(final):
            try:
                self._write(temporary, step, groups, state, loss)
                if final.exists():  # the same step again, after a fall back from a corrupt one
                    self._remove(step)
                temporary.rename(final)
                sync(self.folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            self._prune()
        return final

    def newest(self, note: Callable[[str], None]) -> Saved | None:
        """The newest checkpoint that is whole, verified byte for byte; None if there is none.

        A corrupt one is told through `note` and the one before it taken. Raises CheckpointError
        if all are corrupt: starting over would throw the run away unasked."""
        faults = []
        for step in self.steps():
            try:
                return read(self.path(step))
            except CheckpointError as error:
                faults.append(str(error))
                note(f"{error}; falling back to the checkpoint before it")
        if faults:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole ({faults[0]}): delete the folder to "
                "start over"
            )
        return None

    def best(self) -> int | None:
        """The step of the checkpoint of the least loss."""
        ranked = self._ranked()
        return ranked[0][1] if ranked else None

    def _ranked(self) -> list[tuple[float, int]]:
        found = []
        for step in self.steps():
            with suppress(OSError, ValueError, KeyError, TypeError):
                loss = json.loads((self.path(step) / STATE).read_text("utf-8"))["loss"]
                found.append((float(loss), step))
        return sorted(found)

    def _prune(self) -> None:
        best = {step for _, step in self._ranked()[: self.keep_best]}
        for step in self.steps()[self.keep_last :]:
            if step not in best:
                self._remove(step)

    def _remove(self, step: int) -> None:
        going = self.folder / f"step-{step:08d}.old.tmp"
        shutil.rmtree(going, ignore_errors=True)
        self.path(step).rename(going)
        shutil.rmtree(going)

    def _check_room(self, groups: Groups) -> None:
        """A disk that is nearly full is told before it is filled to the brim."""
        needed = sum(t.nbytes for group in groups.values() for t in group.values())
        with writing(self.folder):
            free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.folder}: a checkpoint takes {needed / 1e9:.2f} GB but {free / 1e9:.2f} GB "
                "are free: make room and run the same command again"
            )

    def _write(
        self,
        folder: Path,
        step: int,
        groups: Groups,
        state: Mapping[str, Any],
        loss: float | None,
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = {
            f"{name}.safetensors": write_tensors(folder / f"{name}.safetensors", tensors)
            for name, tensors in groups.items()
        }
        facts = {"format": 1, "step": step, "loss": loss, "files": files, "state": state}
        text = json.dumps(facts, indent=1).encode()
        _write_bytes(folder / STATE, text)
        _write_bytes(folder / DIGEST, hashlib.sha256(text).hexdigest().encode())
        sync(folder)


def read(path: Path) -> Saved:
    """One checkpoint. Raises CheckpointError for anything that is not as it was written."""
    try:
        text = (path / STATE).read_bytes()
        told = (path / DIGEST).read_text("ascii")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not whole ({error})") from error
    if hashlib.sha256(text).hexdigest() != told:
        raise CheckpointError(f"{path / STATE} is corrupt: its hash is another")
    facts = json.loads(text)
    groups = {}
    for name, digest in facts["files"].items():
        groups[name.removesuffix(".safetensors")] = _read_tensors(path / name, digest)
    return Saved(path, facts["step"], facts["state"], groups)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """A safetensors file, on the disk when this returns; its sha256. Streams: nothing is copied."""
    header: dict[str, Any] = {}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        shape, dtype = list(tensor.shape), _DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces = ((len(text)).to_bytes(8, "little"), text)
    return _write_bytes(path, *pieces, *(_bytes(tensor) for tensor in tensors.values()))


def _write_bytes(path: Path, *pieces: Any) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The tensor's bytes, C order; a view where it lies so already."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise CheckpointError(f"{path} is corrupt: its hash is another")
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
