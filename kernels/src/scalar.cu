// What f32 instructions outside of the tensor cores do with given bits, subnormals, NaN and -0 among
// them. Promotion and epilogue are made of the first three and of the casts; additions in memory are a
// way not taken.
//
//   in   x, y, z     [elements]
//   out  words       [elements][OUTPUTS]
//        sums        [elements][4], for the additions in bulk, which take 16 bytes

constexpr u32 OUTPUTS = 8;

struct ScalarArguments {
    const float* x;
    const float* y;
    const float* z;
    u32* words;
    float* sums;
    u32 elements;
};

extern "C" __global__ void __launch_bounds__(128) fp8gemm_scalar(const __grid_constant__ ScalarArguments arguments) {
    __shared__ alignas(16) float addends[128][4];
    u32 i = blockIdx.x * 128 + threadIdx.x;
    if (i >= arguments.elements) return;
    float x = arguments.x[i], y = arguments.y[i], z = arguments.z[i];
    u32* words = arguments.words + u64(i) * OUTPUTS;
    words[0] = __float_as_uint(__fmaf_rn(x, y, z));
    words[1] = __float_as_uint(__fmul_rn(x, y));
    words[2] = __float_as_uint(__fadd_rn(x, z));

    // x added by the memory system to z where it lies.
    words[3] = __float_as_uint(z);
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(words + 3), "f"(x) : "memory");

    // The same by an asynchronous reduction.
    float* sums = arguments.sums + u64(i) * 4;
    #pragma unroll
    for (u32 j = 0; j < 4; j++) {
        sums[j] = j == 0 ? z : 0.0f;
        addends[threadIdx.x][j] = j == 0 ? x : 0.0f;
    }
    asm volatile("fence.proxy.async;" ::: "memory");
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 16;" ::"l"(sums),
                 "r"(shared_address(addends[threadIdx.x]))
                 : "memory");
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; fence.proxy.async;" ::: "memory");
    words[4] = *reinterpret_cast<volatile u32*>(sums);

    words[5] = pack_bf16(x, y);
    words[6] = pack_f16(x, y);
    u16 e4m3, e5m2;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(e4m3) : "f"(y), "f"(x));
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(e5m2) : "f"(y), "f"(x));
    words[7] = u32(e4m3) | u32(e5m2) << 16;
}
