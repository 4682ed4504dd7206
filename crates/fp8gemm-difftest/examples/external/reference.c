/* A kernel behind fp8gemm_external.h, in plain C: one output after the other, as the policies are
 * written. A worked example, and a second implementation that shares no code with the twin.
 *
 *   cc -O2 -ffp-contract=off -fPIC -shared -I ../../include reference.c -lm -o libreference.so
 *   fp8gemm difftest --external ./libreference.so --policy promote128,chain,cutlass128
 */
#include "fp8gemm_external.h"

#include <math.h>
#include <string.h>

/* The row of B whose scale is applied to column n of D: wrong.c gets this wrong. */
#ifndef ROW_OF_SCALE_B
#define ROW_OF_SCALE_B(n) (n)
#endif
#ifndef NAME
#define NAME "plain C reference"
#endif

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* (-1)^negative * significand * 2^(exponent - fraction), or a special value. A subnormal keeps the
 * smallest exponent: the tensor core does not normalise it. */
typedef struct {
    int negative, significand, exponent, fraction, infinite, nan;
} operand;

static operand decode(uint8_t code, uint32_t type)
{
    const int fraction = type == FP8GEMM_E4M3 ? 3 : 2;
    const int bias = type == FP8GEMM_E4M3 ? 7 : 15;
    const int magnitude = code & 0x7F;
    const int biased = magnitude >> fraction;
    const int low = magnitude & ((1 << fraction) - 1);
    operand x = {code >> 7, 0, 0, fraction, 0, 0};
    if (type == FP8GEMM_E4M3) {
        x.nan = magnitude == 0x7F;
    } else {
        x.infinite = magnitude == 0x7C;
        x.nan = magnitude > 0x7C;
    }
    x.significand = biased == 0 ? low : (1 << fraction) | low;
    x.exponent = (biased == 0 ? 1 : biased) - bias;
    return x;
}

/* value * 2^-drop, toward zero. */
static int64_t cut(uint64_t value, int drop)
{
    return drop >= 64 ? 0 : (int64_t)(value >> drop);
}

/* One k32 step: up to 32 products and c, aligned to the largest exponent, each cut to 13 fraction
 * bits, summed exactly, cut to 13 fraction bits again. */
static float step(const operand *a, const operand *b, int count, float c)
{
    const uint32_t bits = to_bits(c);
    const int biased = (int)(bits >> 23 & 0xFF);
    const uint32_t significand_c = (biased == 0 ? 0 : 1u << 23) | (bits & 0x7FFFFF);
    const int exponent_c = (biased == 0 ? 1 : biased) - 127;
    int nan = isnan(c), plus = isinf(c) && c > 0, minus = isinf(c) && c < 0;
    int largest = -1000;
    if (significand_c != 0 && exponent_c > largest) {
        largest = exponent_c;
    }
    for (int i = 0; i < count; i++) {
        if (a[i].nan || b[i].nan) {
            nan = 1;
        } else if (a[i].infinite || b[i].infinite) {
            if ((!a[i].infinite && a[i].significand == 0) || (!b[i].infinite && b[i].significand == 0)) {
                nan = 1;
            } else if (a[i].negative != b[i].negative) {
                minus = 1;
            } else {
                plus = 1;
            }
        } else if (a[i].significand != 0 && b[i].significand != 0) {
            const int exponent = a[i].exponent + b[i].exponent;
            largest = exponent > largest ? exponent : largest;
        }
    }
    if (nan || (plus && minus)) {
        return from_bits(0x7FFFFFFF);
    }
    if (plus || minus) {
        return plus ? INFINITY : -INFINITY;
    }
    if (largest == -1000) {
        return 0.0f;
    }
    int64_t sum = cut((uint64_t)significand_c << 13, 23 + largest - exponent_c);
    sum = bits >> 31 ? -sum : sum;
    for (int i = 0; i < count; i++) {
        const uint64_t product = (uint64_t)(a[i].significand * b[i].significand);
        if (product != 0) {
            const int below = largest - (a[i].exponent + b[i].exponent);
            const int64_t term = cut(product << 13, a[i].fraction + b[i].fraction + below);
            sum += a[i].negative != b[i].negative ? -term : term;
        }
    }
    uint64_t magnitude = (uint64_t)(sum < 0 ? -sum : sum);
    int top = 0;
    while (magnitude >> top > 1) {
        top++;
    }
    if (top > 13) {
        magnitude = magnitude >> (top - 13) << (top - 13);
    }
    /* Exact: at most 14 significant bits, and far from f32's ends. */
    const float result = ldexpf((float)magnitude, largest - 13);
    return sum < 0 ? -result : result;
}

/* Rows of A and B from `from` up to `to`, as one chain from +0. */
static float chain(const fp8gemm_gemm *g, uint64_t m, uint64_t n, uint64_t from, uint64_t to)
{
    const uint8_t *row_a = (const uint8_t *)g->a.data + m * g->a.stride;
    const uint8_t *row_b = (const uint8_t *)g->b.data + n * g->b.stride;
    float c = 0.0f;
    for (uint64_t k = from; k < to; k += 32) {
        operand a[32], b[32];
        int count = 0;
        for (; count < 32 && k + (uint64_t)count < to; count++) {
            a[count] = decode(row_a[k + (uint64_t)count], g->a.type);
            b[count] = decode(row_b[k + (uint64_t)count], g->b.type);
        }
        c = step(a, b, count, c);
    }
    return c;
}

static uint64_t k_block(uint32_t scales)
{
    return scales == FP8GEMM_1X32 ? 32 : scales == FP8GEMM_1X128 || scales == FP8GEMM_128X128 ? 128 : 0;
}

static float scale_at(const fp8gemm_matrix *scales, uint32_t layout, uint64_t row, uint64_t k)
{
    const uint64_t block = k_block(layout);
    const uint64_t column = block == 0 ? 0 : k / block;
    row = layout == FP8GEMM_TENSOR ? 0 : layout == FP8GEMM_128X128 ? row / 128 : row;
    return ((const float *)scales->data)[row * scales->stride + column];
}

static float accumulate(const fp8gemm_gemm *g, uint64_t m, uint64_t n)
{
    const uint64_t block_a = k_block(g->scales_a), block_b = k_block(g->scales_b);
    const uint64_t block = block_a == 0 ? block_b : block_b == 0 ? block_a : block_a < block_b ? block_a : block_b;
    const uint64_t scale_row = ROW_OF_SCALE_B(n);
    float acc = 0.0f;
    if (g->policy == FP8GEMM_CHAIN) {
        acc = chain(g, m, n, 0, g->k);
    } else {
        const uint64_t every = g->policy == FP8GEMM_CUTLASS128 ? 128 : g->policy_parameter;
        /* Zero padding is promoted too, where scales change along K. */
        const uint64_t end = block == 0 ? g->k : (g->k + block - 1) / block * block;
        for (uint64_t from = 0; from < end; from += every) {
            const uint64_t start = from < g->k ? from : g->k;
            const uint64_t to = from + every < g->k ? from + every : g->k;
            const float x = chain(g, m, n, start, to);
            if (block == 0) {
                acc = acc + x;
                continue;
            }
            const uint64_t k = start < g->k ? start : g->k - 1;
            const float sa = scale_at(&g->scale_a, g->scales_a, m, k);
            const float sb = scale_at(&g->scale_b, g->scales_b, scale_row, k);
            acc = g->policy == FP8GEMM_CUTLASS128 ? fmaf(x * sa, sb, acc) : fmaf(sa * sb, x, acc);
        }
    }
    if (block == 0) {
        const float sa = scale_at(&g->scale_a, g->scales_a, m, 0);
        const float sb = scale_at(&g->scale_b, g->scales_b, scale_row, 0);
        acc = sa * sb * acc;
    }
    return acc;
}

static float bf16_to_f32(uint16_t bits)
{
    return from_bits((uint32_t)bits << 16);
}

static float f16_to_f32(uint16_t bits)
{
    const int biased = bits >> 10 & 0x1F;
    const int fraction = bits & 0x3FF;
    float x;
    if (biased == 0x1F) {
        x = fraction ? NAN : INFINITY;
    } else {
        x = ldexpf((float)(biased == 0 ? fraction : fraction | 0x400), (biased == 0 ? 1 : biased) - 25);
    }
    return bits >> 15 ? -x : x;
}

static uint16_t f32_to_bf16(float x)
{
    const uint32_t bits = to_bits(x);
    if (isnan(x)) {
        return 0x7FFF;
    }
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static uint16_t f32_to_f16(float x)
{
    const uint16_t sign = (uint16_t)(to_bits(x) >> 16 & 0x8000);
    const float magnitude = fabsf(x);
    if (isnan(x)) {
        return 0x7FFF;
    }
    if (magnitude >= 65520.0f) {
        return sign | 0x7C00;
    }
    /* In units of the result's last place, to nearest even; a carry runs into the exponent. */
    int exponent = magnitude < 6.103515625e-5f ? -14 : ilogbf(magnitude);
    const float units = nearbyintf(ldexpf(magnitude, 10 - exponent));
    return sign | (uint16_t)((uint32_t)units + (uint32_t)(exponent + 14) * 0x400);
}

uint32_t fp8gemm_external_version(void)
{
    return FP8GEMM_EXTERNAL_VERSION;
}

const char *fp8gemm_external_name(void)
{
    return NAME;
}

int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g)
{
    if (g->version != FP8GEMM_EXTERNAL_VERSION || g->policy > FP8GEMM_CUTLASS128) {
        return FP8GEMM_UNSUPPORTED;
    }
    for (uint64_t m = 0; m < g->m; m++) {
        for (uint64_t n = 0; n < g->n; n++) {
            float r = accumulate(g, m, n);
            if (g->alpha != 1.0f) {
                r = g->alpha * r;
            }
            if (g->beta != 0.0f) {
                const uint64_t at = m * g->c.stride + n;
                const float c = g->c.type == FP8GEMM_F32    ? ((const float *)g->c.data)[at]
                                : g->c.type == FP8GEMM_BF16 ? bf16_to_f32(((const uint16_t *)g->c.data)[at])
                                                            : f16_to_f32(((const uint16_t *)g->c.data)[at]);
                r = fmaf(g->beta, c, r);
            }
            const uint64_t at = m * g->d.stride + n;
            if (g->d.type == FP8GEMM_F32) {
                ((uint32_t *)g->d.data)[at] = isnan(r) ? 0x7FFFFFFF : to_bits(r);
            } else {
                ((uint16_t *)g->d.data)[at] = g->d.type == FP8GEMM_BF16 ? f32_to_bf16(r) : f32_to_f16(r);
            }
        }
    }
    return FP8GEMM_OK;
}
