"""The weighted sum of two checkpoints, tensor by tensor: a·(1−w) + b·w. Holds one tensor of each in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tilehires import __version__
from tilehires.diffusion.checkpoints import PICKLES
from tilehires.diffusion.header import Header, read_header
from tilehires.errors import ConfigError, MissingError
from tilehires.files import atomic

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CODES = {
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
_SHARED = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")
_LEFTOVERS = ("model_ema.",)  # a copy of the weights that only training needs


def merge(
    first: Path,
    second: Path,
    weight: float,
    out: Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Write first·(1−weight) + second·weight as a new single-file checkpoint.

    Sums are made in float32. What only one of the files holds (a VAE, marks) is taken over; what holds no fractions comes
    from the first. `dtype`: "fp32", "fp16", "bf16", or None for the first file's own. `hashes`: sha256 of the two by
    "a" and "b", for the metadata. Equal inputs give equal bytes.
    Raises MissingError when a file is no checkpoint or damaged, ConfigError when the two are of different architecture,
    the sum doesn't fit the dtype, or `out` exists and may not be overwritten.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"A weight of {weight:g} is none.", hint="Choose one from 0 (all of A) to 1 (all of B).")
    a, b = _checkpoint(first), _checkpoint(second)
    _same_architecture(a, b, first, second)
    if out.suffix.lower() != ".safetensors":
        raise ConfigError(f"{out.name} is no .safetensors file.", hint="Name it OUT.safetensors.")
    if out.exists() and out.resolve() in (first.resolve(), second.resolve()):
        raise ConfigError(f"{out} is one of the two checkpoints.", hint="Choose another name with -o.")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists.", hint="Choose another name with -o, or give --overwrite.")
    names = [name for name in dict.fromkeys((*a.shapes, *b.shapes)) if not name.startswith(_LEFTOVERS)]
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in (first, second)]

        def made(name: str) -> torch.Tensor:
            one, other = (f if name in h.shapes else None for f, h in zip(files, (a, b), strict=True))
            return _sum(name, one, other, weight, DTYPES.get(dtype or ""))

        layout = _layout(names, files, a, dtype)
        _write(out, names, made, _metadata(a, first, second, weight, hashes or {}), layout)


def _sum(name: str, one: Any, other: Any, weight: float, dtype: torch.dtype | None) -> torch.Tensor:
    """One tensor of the result. Raises ConfigError where it doesn't fit the dtype."""
    value = (one or other).get_tensor(name)
    target = dtype if dtype and value.is_floating_point() else value.dtype
    if one and other and value.is_floating_point():
        value = value.float() * (1 - weight) + other.get_tensor(name).float() * weight
    result = value.to(target)
    if value.is_floating_point() and torch.isinf(result).any() and torch.isfinite(value).all():
        raise ConfigError(f"{name} holds numbers too large for {target}.", hint="Choose --dtype bf16.")
    return result.contiguous()


def _checkpoint(path: Path) -> Header:
    if path.suffix.lower() in PICKLES:
        raise MissingError(f"{path.name} is a pickle.", hint="Get the .safetensors version of the checkpoint.")
    if not path.is_file():
        raise MissingError(f"There is no checkpoint file {path}.", hint="Single .safetensors files can be merged.")
    header = read_header(path)
    if not any(name.startswith("model.diffusion_model.") for name in header.shapes):
        raise MissingError(f"{path.name} is {header.kind}, not a checkpoint.", hint="Name two checkpoint files.")
    return header


def _same_architecture(a: Header, b: Header, first: Path, second: Path) -> None:
    hint = "Both must be of one family, and of one kind: no inpainting model with a plain one."
    if a.kind != b.kind or a.prediction != b.prediction:
        raise ConfigError(
            f"{first.name} is {a.kind} ({a.prediction}) and {second.name} is {b.kind} ({b.prediction}).", hint=hint
        )
    for name in sorted({*a.shapes, *b.shapes}):
        left, right = a.shapes.get(name), b.shapes.get(name)
        if left == right or ((left is None or right is None) and not _essential(name)):
            continue
        said = " and ".join("missing" if shape is None else "x".join(map(str, shape)) for shape in (left, right))
        raise ConfigError(f"{first.name} and {second.name} differ in {name}: {said}.", hint=hint)


def _essential(name: str) -> bool:
    return name.startswith(_SHARED) and not name.endswith(("position_ids", "logit_scale"))


def _metadata(a: Header, first: Path, second: Path, weight: float, hashes: Mapping[str, str]) -> dict[str, str]:
    sources = [{"name": path.name, "sha256": hashes.get(key)} for key, path in (("a", first), ("b", second))]
    said = {"sources": sources, "weight": weight, "formula": "a·(1−w) + b·w", "tilehires": __version__}
    kept = {
        key: value
        for key, value in a.metadata.items()
        if key in ("modelspec.prediction_type", "modelspec.architecture")
    }
    return {"format": "pt", **kept, "tilehires.merge": json.dumps(said, sort_keys=True, ensure_ascii=False)}


def _layout(names: list[str], files: list[Any], a: Header, dtype: str | None) -> dict[str, tuple[str, list[int], int]]:
    """Each tensor's (type, shape, bytes) in the result, from the headers."""
    found = {}
    by_code = {code: kind for kind, code in _CODES.items()}
    for name in names:
        piece = files[0 if name in a.shapes else 1].get_slice(name)
        kind = by_code.get(piece.get_dtype())
        if kind is None:
            raise MissingError(
                f"{name} is stored as {piece.get_dtype()}, which can't be merged.",
                hint="Use the checkpoint's fp16, bf16 or fp32 version.",
            )
        kind = DTYPES[dtype] if dtype and kind.is_floating_point else kind
        shape = list(piece.get_shape())
        found[name] = (_CODES[kind], shape, torch.Size(shape).numel() * kind.itemsize)
    return found


def _write(
    out: Path,
    names: list[str],
    made: Callable[[str], torch.Tensor],
    metadata: dict[str, str],
    layout: Mapping[str, tuple[str, list[int], int]],
) -> None:
    """safetensors' format: the header's length, the header, the tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name in names:
        code, shape, size = layout[name]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    body = json.dumps(header, ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    with atomic(out) as stream:
        stream.write(len(body).to_bytes(8, "little") + body)
        for name in names:
            stream.write(made(name).reshape(-1).view(torch.uint8).numpy().tobytes())
