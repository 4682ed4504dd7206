// The C arithmetic of the recipes whose sources are CUDA kernels, one thread for each block, to see
// what nvcc and the GPU make of divisions, fmaxf, fminf and the FP8 conversion. Built and called by
// recipes_cuda.py. The rules are those of src/quantize/rule.rs; the clamps are as in the sources.
#include <cfloat>
#include <cstdint>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

// In the order of NAMES in recipes_cuda.py.
enum Recipe {
  TE_CURRENT, TE_CURRENT_POW2, TE_BLOCK, TE_BLOCK_F32,
  VLLM_TENSOR, VLLM_TOKEN, VLLM_GROUP, VLLM_GROUP_UE8M0,
  SGLANG_TENSOR, SGLANG_TOKEN, SGLANG_GROUP, SGLANG_GROUP_UE8M0,
  MISTRALRS_DEEPGEMM, MISTRALRS_CUTLASS, MISTRALRS_WEIGHT,
};

__device__ float round_up(float x) {
  uint32_t bits = __float_as_uint(x);
  return __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
}

// Returns the stored scale; `factor` is what elements are multiplied or divided by.
__device__ float block_scale(Recipe recipe, float amax, float max, float cap, float& factor) {
  switch (recipe) {
    case TE_CURRENT: case TE_CURRENT_POW2: case TE_BLOCK: case TE_BLOCK_F32: {
      bool pow2 = recipe == TE_CURRENT_POW2 || recipe == TE_BLOCK;
      factor = 1.0f;
      if (amax > 0.0f && amax <= FLT_MAX) {
        factor = __fdiv_rn(max, amax);
        if (isinf(factor)) factor = recipe == TE_BLOCK || recipe == TE_BLOCK_F32 ? cap : FLT_MAX;
        if (pow2) factor = __uint_as_float(__float_as_uint(factor) & 0xff800000u);
      }
      return __frcp_rn(factor);
    }
    case VLLM_TENSOR: case SGLANG_TENSOR: {
      float scale = amax / max;
      factor = 1.0f / scale;
      return scale;
    }
    case VLLM_TOKEN:
      return factor = fmaxf(amax / max, 1.0f / (max * 512.0f));
    case VLLM_GROUP: case MISTRALRS_CUTLASS:
      return factor = fmaxf(amax, 1e-10f) / max;
    case VLLM_GROUP_UE8M0: {
      float scale = round_up(fmaxf(fmaxf(amax, 1e-10f) / max, 1e-10f));
      factor = 1.0f / scale;
      return scale;
    }
    case SGLANG_TOKEN: {
      float scale = amax / max;
      factor = scale == 0.0f ? 0.0f : 1.0f / scale;
      return scale;
    }
    case SGLANG_GROUP:
      amax = fmaxf(amax, 1e-10f);
      factor = max / amax;
      return amax * (1.0f / max);
    case SGLANG_GROUP_UE8M0: {
      float scale = round_up(fmaxf(amax, 1e-10f) * (1.0f / max));
      factor = __uint_as_float((254u << 23) - __float_as_uint(scale));
      return scale;
    }
    case MISTRALRS_DEEPGEMM:
      factor = amax == 0.0f ? 1.0f : max / amax;
      return 1.0f / factor;
    case MISTRALRS_WEIGHT: {
      float scale = amax / max;
      return factor = scale < 1e-12f ? 1e-12f : scale;
    }
  }
  return 0.0f;
}

__device__ uint8_t element(Recipe recipe, float x, float factor, float max, __nv_fp8_interpretation_t ty) {
  float v;
  switch (recipe) {
    case VLLM_TENSOR: case SGLANG_TENSOR: case SGLANG_TOKEN:
      v = fmaxf(-max, fminf(x * factor, max));
      break;
    case VLLM_TOKEN:
      v = fmaxf(-max, fminf(x / factor, max));
      break;
    case VLLM_GROUP: case MISTRALRS_CUTLASS:
      v = fminf(fmaxf(x / factor, -max), max);
      break;
    case VLLM_GROUP_UE8M0: case SGLANG_GROUP: case SGLANG_GROUP_UE8M0:
      v = fminf(fmaxf(x * factor, -max), max);
      break;
    case MISTRALRS_WEIGHT:
      v = x / factor;
      v = v > max ? max : v < -max ? -max : v;
      return __nv_cvt_halfraw_to_fp8(__float2half(v), __NV_SATFINITE, ty);
    default:
      v = x * factor;
  }
  return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, ty);
}

__global__ void quantise(const float* x, uint8_t* codes, float* scales, int rows, int columns, int block_rows,
                         int block_columns, int recipe, int e5m2, float cap) {
  int blocks_in_row = (columns + block_columns - 1) / block_columns;
  int block = blockIdx.x * blockDim.x + threadIdx.x;
  int first_row = block / blocks_in_row * block_rows, first_column = block % blocks_in_row * block_columns;
  if (first_row >= rows) return;
  int last_row = min(rows, first_row + block_rows), last_column = min(columns, first_column + block_columns);
  float max = e5m2 ? 57344.0f : 448.0f, amax = 0.0f, factor;
  for (int row = first_row; row < last_row; ++row)
    for (int column = first_column; column < last_column; ++column)
      amax = fmaxf(amax, fabsf(x[(size_t)row * columns + column]));
  scales[block] = block_scale((Recipe)recipe, amax, max, cap, factor);
  for (int row = first_row; row < last_row; ++row)
    for (int column = first_column; column < last_column; ++column) {
      size_t at = (size_t)row * columns + column;
      codes[at] = element((Recipe)recipe, x[at], factor, max, e5m2 ? __NV_E5M2 : __NV_E4M3);
    }
}

extern "C" int run(const float* x, uint8_t* codes, float* scales, int rows, int columns, int block_rows,
                   int block_columns, int recipe, int e5m2, float cap) {
  int blocks = ((rows + block_rows - 1) / block_rows) * ((columns + block_columns - 1) / block_columns);
  quantise<<<(blocks + 127) / 128, 128>>>(x, codes, scales, rows, columns, block_rows, block_columns, recipe, e5m2,
                                          cap);
  return cudaDeviceSynchronize();
}
