"""Writes tests/conformance/fixtures. `generate.py --check` makes them again elsewhere and compares byte for byte."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import torch

import btx_vectors
import mixtures
import models
import ops_attention
import ops_elementwise
import ops_matmul
import ops_moe
import ops_movement
import ops_rows
import ops_vision
import reward_model
import rlhf_losses
from recorder import Recorder

FIXTURES = Path(__file__).parent / "fixtures"
# What this script makes there.
OWN = ("ops.safetensors", "llama", "btx.json", "mixtures.safetensors", "rlhf.safetensors", "reward-model")


def write(directory: Path) -> None:
    suite = Recorder()
    for family in (ops_elementwise, ops_movement, ops_matmul, ops_rows, ops_attention, ops_moe, ops_vision):
        family.record(suite)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ops.safetensors").write_bytes(suite.serialize())
    models.write(directory / "llama")
    reward_model.write(directory / "reward-model")
    (directory / "mixtures.safetensors").write_bytes(mixtures.document(directory / "llama" / "gqa"))
    (directory / "rlhf.safetensors").write_bytes(rlhf_losses.document())
    (directory / "btx.json").write_text(btx_vectors.document())


def files(directory: Path) -> set[Path]:
    """Every file of this script below `directory`, relative to it."""
    found = {path.relative_to(directory) for path in directory.rglob("*") if path.is_file()}
    return {path for path in found if path.parts[0] in OWN}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; fail if the committed fixtures differ")
    check = arguments.parse_args().check
    # Sums in one fixed order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "fixtures"
        write(made)
        if check:
            names = files(made) | files(FIXTURES)
            _, different, missing = filecmp.cmpfiles(
                made, FIXTURES, [str(name) for name in sorted(names)], shallow=False
            )
            for name in different + missing:
                print(f"differs: {name}")
            return 1 if different or missing else 0
        for name in files(FIXTURES):
            (FIXTURES / name).unlink()
        shutil.copytree(made, FIXTURES, dirs_exist_ok=True)
    size = sum((FIXTURES / name).stat().st_size for name in files(FIXTURES))
    print(f"{len(files(FIXTURES))} files, {size / 1e6:.2f} MB in {FIXTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
