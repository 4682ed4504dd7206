// What the kernels that quantise, transpose and repack share: 16 bytes of input, the scale of a block, the
// cast to FP8. Every float operation is named with its rounding, so that no compiler option can
// change a bit.

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

#define DEVICE static __device__ __forceinline__

// Values of the constants INPUT and CODES.
constexpr u32 INPUT_BF16 = 0, INPUT_F16 = 1, INPUT_F32 = 2, INPUT_FP8 = 3;
constexpr u32 CODES_E4M3 = 0, CODES_E5M2 = 1;

// The kernels' one parameter. Strides are in elements; `scales` is unused where FP8 comes in.
struct Arguments {
    const u8* input;
    u8* codes;
    float* scales;
    u64 input_stride;
    u64 codes_stride;
    u64 scales_stride;
    u32 rows;
    u32 k;
    u32 aligned;  // input pointer and stride are multiples of 16 bytes
};

// The granularity along K, and along the rows where a scale is shared by a square.
constexpr u32 BLOCK = 128;

// 16 bytes of input: 16, 8 or 4 elements.
struct alignas(16) Vector {
    u32 word[4];
};

constexpr u32 size_of(u32 input) { return input == INPUT_FP8 ? 1 : input == INPUT_F32 ? 4 : 2; }

DEVICE u32 ceil_div(u32 a, u32 b) { return a / b + (a % b != 0); }

// Through L1: with `no_allocate` large matrices took 4 % longer on an H200.
DEVICE Vector load_vector(const u8* pointer) {
    Vector v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(pointer));
    return v;
}

DEVICE void store_vector(u8* pointer, const Vector& v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.word[0]), "r"(v.word[1]),
                 "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
}

// The first `valid` elements one by one, zeros after them.
template <u32 INPUT>
DEVICE Vector load_elements(const u8* pointer, u32 valid) {
    constexpr u32 SIZE = size_of(INPUT);
    Vector v = {};
#pragma unroll
    for (u32 i = 0; i < 16 / SIZE; ++i) {
        if (i < valid) {
            u32 element;
            if (SIZE == 1) element = *pointer;
            if (SIZE == 2) element = *reinterpret_cast<const u16*>(pointer);
            if (SIZE == 4) element = *reinterpret_cast<const u32*>(pointer);
            v.word[i * SIZE / 4] |= element << (8 * (i * SIZE % 4));
        }
        pointer += SIZE;
    }
    return v;
}

template <u32 INPUT>
DEVICE Vector load(const u8* pointer, u32 valid, bool aligned) {
    if (aligned && valid >= 16 / size_of(INPUT)) return load_vector(pointer);
    return load_elements<INPUT>(pointer, valid);
}

// ---- magnitudes ------------------------------------------------------------------------------
//
// Magnitudes order like their bits, any NaN above infinity: the maximum is one of integers, a NaN
// reaches it as with torch.amax, and the order of the maxima cannot matter.

// The magnitudes in a word: two of 16 bits, or one of 32.
template <u32 INPUT>
DEVICE u32 magnitudes(u32 word) {
    return word & (INPUT == INPUT_F32 ? 0x7FFFFFFF : 0x7FFF7FFF);
}

template <u32 INPUT>
DEVICE u32 larger(u32 a, u32 b) {
    u32 d;
    if (INPUT == INPUT_F32) {
        d = a > b ? a : b;
    } else {
        asm("max.u16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    }
    return d;
}

// Element `i` of a word, widened to f32, which is exact.
template <u32 INPUT>
DEVICE float widen(u32 word, u32 i) {
    if (INPUT == INPUT_F32) return __uint_as_float(word);
    if (INPUT == INPUT_BF16) return __uint_as_float(i == 0 ? word << 16 : word & 0xFFFF0000);
    float wide;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }"
        : "=f"(wide)
        : "r"(i == 0 ? word : word >> 16));
    return wide;
}

// The larger of what a word holds, as f32.
template <u32 INPUT>
DEVICE float largest_of_word(u32 word) {
    if (INPUT == INPUT_F32) return __uint_as_float(word);
    const u32 low = word & 0xFFFF, high = word >> 16;
    return widen<INPUT>(low > high ? low : high, 0);
}

// ---- scale and cast --------------------------------------------------------------------------

struct Scale {
    float stored;  // what dequantisation multiplies by
    float factor;  // what elements are multiplied by
};

// DeepGEMM's rule: max(amax, 1e-4) * fl(1 / largest code), and its reciprocal. A NaN stays, since it
// compares false; the multiplication makes it 0x7FFFFFFF. With POW2 the scale goes up to a power of
// two, 2^127 at most, which infinity and NaN become too.
template <u32 CODES, bool POW2>
DEVICE Scale scale_of(float amax) {
    constexpr float RECIPROCAL = 1.0f / (CODES == CODES_E4M3 ? 448.0f : 57344.0f);
    float stored = __fmul_rn(amax < 1e-4f ? 1e-4f : amax, RECIPROCAL);
    if (POW2) {
        const u32 bits = __float_as_uint(stored) & 0x7FFFFFFF;
        const u32 field = (bits >> 23) + ((bits & 0x7FFFFF) != 0);
        stored = __uint_as_float((field < 254 ? field : 254) << 23);
    }
    return {stored, __frcp_rn(stored)};
}

// Two numbers to codes, nearest even, saturating (infinity too), NaN to 7F; `low` in the low byte.
template <u32 CODES>
DEVICE u32 cast2(float low, float high) {
    u16 codes;
    if (CODES == CODES_E4M3) {
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    }
    return codes;
}

template <u32 CODES>
DEVICE u32 cast4(float a, float b, float c, float d) {
    return cast2<CODES>(a, b) | cast2<CODES>(c, d) << 16;
}
