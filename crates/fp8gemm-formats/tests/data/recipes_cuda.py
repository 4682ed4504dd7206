"""Writes recipes_cuda.txt: what the recipes compute on a GPU.

    python recipes_cuda.py --math math.py --v1 test_core.py --out recipes_cuda.txt

DeepGEMM's own Python functions run on CUDA tensors (which is where DeepGEMM runs them; torch
divides there by a Python number by multiplying with its reciprocal). Of the projects whose
quantisation is a CUDA kernel, the arithmetic in recipes_cuda.cu runs. Prints how often the codes
change when that is built with -use_fast_math.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile

import numpy as np
import torch

from recipes_inputs import emit, functions, tensors

HEADER = """\
# Codes and scales computed on a GPU: {device}, torch {torch}, CUDA {cuda}.
#   deepgemm, deepgemm-ue8m0   deepseek-ai/DeepGEMM deep_gemm/utils/math.py@38939a4 on CUDA tensors
#   deepgemm-v1                deepseek-ai/DeepGEMM tests/test_core.py@1169f83 on CUDA tensors
#   others                     recipes_cuda.cu, built by nvcc without fast math
# Written by recipes_cuda.py. Every NaN code is 7f, every NaN scale 7fffffff.
# <recipe>:<layout>:<type> <input> <rows> <columns> <scales, f32 bits> <codes>"""

NAMES = [
    "te-current", "te-current-pow2", "te-block", "te-block-f32",
    "vllm-tensor", "vllm-token", "vllm-group", "vllm-group-ue8m0",
    "sglang-tensor", "sglang-token", "sglang-group", "sglang-group-ue8m0",
    "mistralrs-deepgemm", "mistralrs-cutlass", "mistralrs-weight",
]
LAYOUTS = {
    "te-current": "tensor", "te-current-pow2": "tensor", "vllm-tensor": "tensor", "sglang-tensor": "tensor",
    "vllm-token": "row", "sglang-token": "row", "mistralrs-weight": "128x128",
}


def build(folder, flags):
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes_cuda.cu")
    library = os.path.join(folder, f"recipes{len(flags)}.so")
    arch = "".join(map(str, torch.cuda.get_device_capability()))
    command = ["nvcc", "-O3", "-std=c++17", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xcompiler", "-fPIC"]
    subprocess.run([*command, "-shared", *flags, "-o", library, source], check=True)
    run = ctypes.CDLL(library).run
    run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 6 + [ctypes.c_float]
    return run


def call(run, name, layout, ty, x, cap):
    rows, columns = x.shape
    block = {"tensor": (rows, columns), "row": (1, columns), "1x128": (1, 128), "128x128": (128, 128)}[layout]
    count = -(-rows // block[0]) * -(-columns // block[1])
    codes = torch.zeros(rows * columns, dtype=torch.uint8, device="cuda")
    scales = torch.zeros(count, device="cuda")
    status = run(x.contiguous().data_ptr(), codes.data_ptr(), scales.data_ptr(), rows, columns, *block,
                 NAMES.index(name), int(ty == "e5m2"), cap)
    assert status == 0, status
    return scales, codes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("math", "v1", "out"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    inputs = tensors("cuda")
    out = open(arguments.out, "w")
    device = torch.cuda.get_device_name(0)
    print(HEADER.format(device=device, torch=torch.__version__, cuda=torch.version.cuda), file=out)

    token, channel, block, custom, *_ = functions(
        arguments.math,
        ["per_token_cast_to_fp8", "per_channel_cast_to_fp8", "per_block_cast_to_fp8",
         "per_custom_dims_cast_to_fp8", "ceil_to_ue8m0", "align", "ceil_div"],
        {},
    )
    for recipe, ue8m0 in (("deepgemm", False), ("deepgemm-ue8m0", True)):
        for source in ("f32", "bf16", "finite" if ue8m0 else "wide"):
            x = inputs[source]
            codes, scales = token(x.to(torch.bfloat16) if source == "bf16" else x, ue8m0)
            emit(f"{recipe}:1x128:e4m3", source, x, scales, codes, out)
        x = inputs["f32"]
        codes, scales = token(x, ue8m0, gran_k=32)
        emit(f"{recipe}:1x32:e4m3", "f32", x, scales, codes, out)
        codes, scales = custom(x, (0,), ue8m0)
        emit(f"{recipe}:row:e4m3", "f32", x, scales, codes, out)
        codes, scales = custom(x, (), ue8m0)
        emit(f"{recipe}:tensor:e4m3", "f32", x, scales, codes, out)
        x = inputs["column"]
        codes, scales = channel(x, ue8m0)
        emit(f"{recipe}:128x1:e4m3", "column", x, scales, codes, out)
    x = inputs["square"]
    codes, scales = block(x, False)
    emit("deepgemm:128x128:e4m3", "square", x, scales, codes, out)

    token, _ = functions(arguments.v1, ["per_token_cast_to_fp8", "ceil_div"], {})
    for source in ("f32", "bf16", "wide"):
        codes, scales = token(inputs[source])
        emit("deepgemm-v1:1x128:e4m3", source, inputs[source], scales, codes, out)

    largest = float(np.finfo(np.float32).max)
    with tempfile.TemporaryDirectory() as folder:
        ieee, fast = build(folder, []), build(folder, ["-use_fast_math"])
        for name in NAMES:
            layout = LAYOUTS.get(name, "1x128")
            for ty in ("e4m3", "e5m2"):
                source = "finite" if name == "sglang-group-ue8m0" else "wide"
                for source in ("mx", source):
                    scales, codes = call(ieee, name, layout, ty, inputs[source], largest)
                    emit(f"{name}:{layout}:{ty}", source, inputs[source], scales, codes, out)
        torch.manual_seed(0)
        x = torch.randn(4096, 4096, device="cuda").to(torch.bfloat16).float()
        for name in NAMES:
            layout = LAYOUTS.get(name, "1x128")
            if layout != "tensor":
                scales, codes = call(ieee, name, layout, "e4m3", x, largest)
                fast_scales, fast_codes = call(fast, name, layout, "e4m3", x, largest)
                changed = [(a != b).float().mean().item() for a, b in ((codes, fast_codes), (scales, fast_scales))]
                print(f"-use_fast_math, bf16 N(0,1), {name}: codes {changed[0]:.2e}, scales {changed[1]:.2e} differ")


if __name__ == "__main__":
    main()
