"""Loads a model folder written by Trefoil in transformers and compares logits.

    python check_with_transformers.py FOLDER [EXPECTED]

FOLDER has config.json and safetensors; EXPECTED (default: FOLDER/expected.safetensors) has `input_ids` [B, S] i32 and
`logits` [B, S, V] f32 as Trefoil computed them. Fails if a key is missing or unexpected, or a logit is off by more than
1e-5 of the largest.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("expected", type=Path, nargs="?")
    options = arguments.parse_args()

    model, loading = AutoModelForCausalLM.from_pretrained(
        options.folder,
        local_files_only=True,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    model.eval()
    problems = [f"{kind}: {sorted(map(str, names))}" for kind, names in loading.items() if names]
    ours = load_file(options.expected or options.folder / "expected.safetensors")
    with torch.no_grad():
        theirs = model(input_ids=ours["input_ids"].long()).logits
    if theirs.shape != ours["logits"].shape:
        problems.append(f"logits are {list(ours['logits'].shape)}, transformers has {list(theirs.shape)}")
    else:
        error = ((theirs - ours["logits"]).abs().max() / theirs.abs().max()).item()
        print(f"{type(model).__name__}: largest difference {error:.2e} of the largest logit")
        # `not <=` so that NaN fails.
        if not error <= TOLERANCE:
            problems.append(f"logits differ by {error:.2e} of the largest, more than {TOLERANCE:.0e}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
