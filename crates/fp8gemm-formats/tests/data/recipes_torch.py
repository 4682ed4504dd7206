"""Writes recipes_torch.txt: what the libraries' own Python code computes on the CPU.

    python recipes_torch.py --math math.py --mx mx_tensor.py \
        --te-block quantize_scale_calc.py --te-current ref_per_tensor_cs.py > recipes_torch.txt

The arguments are files of other projects, at the commits named in HEADER; only the functions
asked for below are taken out of them and run. torch and torchao come from the package index.
"""

import argparse

import torch
import torchao
from torchao.float8.config import ScalingGranularity
from torchao.float8.float8_scaling_utils import hp_tensor_to_float8_dynamic
from torchao.float8.float8_training_tensor import LinearMMConfig
from torchao.prototype.mx_formats import mx_tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode

from recipes_inputs import emit, functions, tensors

HEADER = f"""\
# Codes and scales computed by the libraries' own Python code on the CPU: torch {torch.__version__},
# torchao {torchao.__version__}, and functions of these files (repository file@commit):
#   deepgemm-cpu               deepseek-ai/DeepGEMM deep_gemm/utils/math.py@38939a4
#   torchao-mx-*, input mx     torchao package above, to_mx
#   torchao-mx-*, input wide   pytorch/ao torchao/prototype/mx_formats/mx_tensor.py@050515e, to_mx
#   torchao-float8             torchao package above, hp_tensor_to_float8_dynamic
#   te-block, te-block-f32     NVIDIA/TransformerEngine tests/pytorch/references/quantize_scale_calc.py@3580212
#   te-current(-pow2)          NVIDIA/TransformerEngine tests/pytorch/references/ref_per_tensor_cs.py@0b14614
# (of TransformerEngine the scale is theirs; tiles, product and cast are of the script).
# (Of the files, only the functions named in the script were run, of mx_tensor.py without the branches
# for other types and for compiled GPU code.)
# Written by recipes_torch.py. Every NaN code is 7f, every NaN scale 7fffffff.
# <recipe>:<layout>:<type> <input> <rows> <columns> <scales, f32 bits> <codes>"""


def e8m0(scales):
    """E8M0 codes as the f32 they mean."""
    return scales.view(torch.uint8).view(torch.float8_e8m0fnu).to(torch.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("math", "mx", "te-block", "te-current"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    print(HEADER)
    types = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
    inputs = tensors("cpu")

    token, channel, custom, *_ = functions(
        arguments.math,
        ["per_token_cast_to_fp8", "per_channel_cast_to_fp8", "per_custom_dims_cast_to_fp8",
         "ceil_to_ue8m0", "align", "ceil_div"],
        {},
    )
    for source in ("f32", "wide"):
        codes, scales = token(inputs[source], False)
        emit("deepgemm-cpu:1x128:e4m3", source, inputs[source], scales, codes)
    codes, scales = custom(inputs["f32"], (0,), False)
    emit("deepgemm-cpu:row:e4m3", "f32", inputs["f32"], scales, codes)
    codes, scales = channel(inputs["column"], False)
    emit("deepgemm-cpu:128x1:e4m3", "column", inputs["column"], scales, codes)

    *_, newer = functions(
        arguments.mx,
        ["_f32_to_e8m0_rceil", "_e8m0_scale_to_reciprocal_fp32", "_to_mx_rceil", "to_mx"],
        dict(vars(mx_tensor), _TORCH_VERSION_AT_LEAST_2_13=True, _TORCH_VERSION_AT_LEAST_2_14=True),
    )
    for ty, dtype in types.items():
        for mode in ScaleCalculationMode:
            name = f"torchao-mx-{mode.value}:1x32:{ty}"
            scales, codes = mx_tensor.to_mx(inputs["mx"], dtype, 32, mode)
            emit(name, "mx", inputs["mx"], e8m0(scales), codes)
            scales, codes = newer(inputs["wide"], dtype, 32, mode)
            emit(name, "wide", inputs["wide"], e8m0(scales), codes)

    for ty, dtype in types.items():
        for layout, granularity in (("tensor", ScalingGranularity.TENSORWISE), ("row", ScalingGranularity.AXISWISE)):
            for source in ("f32", "wide"):
                x = inputs[source]
                axis = None if layout == "tensor" else -1
                result = hp_tensor_to_float8_dynamic(
                    x, dtype, LinearMMConfig(), scaling_granularity=granularity, axiswise_dim=axis
                )
                emit(f"torchao-float8:{layout}:{ty}", source, x, result._scale.reciprocal(), result._data)

    (block_scale,) = functions(arguments.te_block, ["scale_from_amax_tensor"], {})
    (current_scale,) = functions(arguments.te_current, ["_ref_compute_amax_scale"], {})
    for ty, dtype in types.items():
        for pow2 in (True, False):
            for source, input_type in (("bf16", torch.bfloat16), ("finite", torch.float32)):
                x = inputs[source]
                padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 128)).reshape(x.shape[0], -1, 128)
                amax = padded.abs().amax(dim=-1)
                scale, inverse, _ = block_scale(input_type, amax, dtype, eps=0.0, pow_2_scales=pow2)
                codes = (padded * scale.unsqueeze(-1)).reshape(x.shape[0], -1)[:, : x.shape[1]].to(dtype)
                emit(f"te-block{'' if pow2 else '-f32'}:1x128:{ty}", source, x, inverse, codes)
            scale, inverse, _ = current_scale(x, dtype, 0.0, pow2)
            emit(f"te-current{'-pow2' if pow2 else ''}:tensor:{ty}", source, x, inverse, (x * scale).to(dtype))


if __name__ == "__main__":
    main()
