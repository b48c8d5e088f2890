"""`tilehires models merge`."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("-w", "--weight", type=float, default=0.5, show_default=True, help="Share of B, from 0 to 1.")
@click.option("-o", "--output", type=FILE, required=True, help="The new checkpoint, a .safetensors file.")
@click.option("--dtype", type=click.Choice(["fp16", "bf16", "fp32"]), help="Number format; by default as in A.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def merge(a: Path, b: Path, weight: float, output: Path, dtype: str | None, overwrite: bool) -> None:
    """Write the weighted sum of two checkpoints: A·(1−w) + B·w.

    Both must be single .safetensors files of one architecture. Tensors are read and written one by one, so that memory
    doesn't matter. What only one of them holds, such as a VAE, is taken over.
    """
    from tilehires.diffusion import merge as merging

    hashes = {key: _sha256(path) for key, path in (("a", a), ("b", b)) if path.is_file()}
    merging.merge(a, b, weight, output, dtype=dtype, overwrite=overwrite, hashes=hashes)
    click.echo(f"{output}  {output.stat().st_size / 1e6:.2f} MB  sha256 {_sha256(output)}")


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
