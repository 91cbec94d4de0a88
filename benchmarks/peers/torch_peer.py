"""PyTorch as a peer: one JSON request a line, one JSON answer a line.

Greets with {"version": ...}. {"define": {"kernel": name, ...}, "threads": n, "compile": bool} prepares work;
{"run": n} does it n times and answers {"seconds": mean}, and what else the work says of itself. What goes wrong is answered as {"error": ...}.
"""

import gc
import json
import sys
import time


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    try:
        import torch
        import transformers

        import torch_kernels
        import torch_models
        import torch_ppo
        import torch_synth2
        import torch_vlm
    except ImportError as error:
        answer({"missing": f"{error}; this Python needs torch and transformers"})
        return
    transformers.utils.logging.set_verbosity_error()
    answer({"version": f"{torch.__version__} transformers {transformers.__version__}"})
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "define" in request:
                work = None
                gc.collect()
                torch.compiler.reset()
                torch.set_num_threads(request["threads"])
                torch.manual_seed(0)
                task = dict(request["define"])
                kernel = task.pop("kernel")
                parts = (torch_kernels, torch_models, torch_ppo, torch_synth2, torch_vlm)
                make = next(getattr(part, kernel) for part in parts if hasattr(part, kernel))
                wrap = torch.compile if request["compile"] else (lambda function: function)
                work = make(wrap=wrap, **task)
                work()
                answer({"ready": True})
            else:
                repetitions = request["run"]
                begun = time.perf_counter()
                for _ in range(repetitions):
                    result = work()
                seconds = (time.perf_counter() - begun) / repetitions
                answer({"seconds": seconds, **(result if isinstance(result, dict) else {})})
        except Exception as error:  # the benchmark goes on without this case
            answer({"error": f"{type(error).__name__}: {error}"})


main()
