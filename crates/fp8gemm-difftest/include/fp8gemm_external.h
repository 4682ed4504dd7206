/* What a library exports to be tested by `fp8gemm difftest --external LIB`.
 *
 *   D[m, n] = cast(alpha * sum_k (A[m, k] * scale_a) * (B[n, k] * scale_b) + beta * C[m, n])
 *
 * All memory is the host's. A library for a GPU copies there and back, and waits for its kernel.
 * Two functions are needed, a third is optional; all are called from one thread at a time.
 */
#ifndef FP8GEMM_EXTERNAL_H
#define FP8GEMM_EXTERNAL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. Changes only when something below changes its meaning or place. */
#define FP8GEMM_EXTERNAL_VERSION 1

enum fp8gemm_type {
    FP8GEMM_E4M3 = 0, /* OCP E4M3, largest 448, NaN 0x7F and 0xFF */
    FP8GEMM_E5M2 = 1,
    FP8GEMM_BF16 = 2,
    FP8GEMM_F16 = 3,
    FP8GEMM_F32 = 4
};

/* Which elements of a [rows, K] operand share a scale, and the shape of its scales. */
enum fp8gemm_scales {
    FP8GEMM_TENSOR = 0,  /* [1, 1] */
    FP8GEMM_ROW = 1,     /* [rows, 1] */
    FP8GEMM_1X128 = 2,   /* [rows, ceil(K / 128)] */
    FP8GEMM_128X128 = 3, /* [ceil(rows / 128), ceil(K / 128)] */
    FP8GEMM_1X32 = 4     /* [rows, ceil(K / 32)] */
};

/* The arithmetic that D is compared with; docs/policies.md defines each. */
enum fp8gemm_policy {
    FP8GEMM_PROMOTE = 0,    /* parameter: elements of K between promotions, 128 for promote128 */
    FP8GEMM_CHAIN = 1,      /* parameter 0 */
    FP8GEMM_CUTLASS128 = 2, /* parameter 0 */
    FP8GEMM_SPLIT = 3       /* parameter: parts */
};

/* What fp8gemm_external_gemm returns. Any other value is a failure, and reported as a finding. */
enum fp8gemm_status {
    FP8GEMM_OK = 0,
    FP8GEMM_UNSUPPORTED = 1 /* the case is passed over */
};

/* A matrix: element (r, c) is at data + (r * stride + c) * size of an element. Addresses and strides
 * are multiples of the element size and of nothing more: rows have gaps, filled with NaN. */
typedef struct fp8gemm_matrix {
    void *data;
    uint64_t rows;
    uint64_t columns;
    uint64_t stride; /* in elements */
    uint32_t type;   /* enum fp8gemm_type */
    uint32_t reserved;
} fp8gemm_matrix;

typedef struct fp8gemm_gemm {
    uint32_t version; /* FP8GEMM_EXTERNAL_VERSION */
    uint32_t size;    /* sizeof(fp8gemm_gemm) */
    uint64_t m; /* m, n and k may be 0: D is empty, or cast(alpha * 0 + beta * C) where only k is */
    uint64_t n;
    uint64_t k;
    fp8gemm_matrix a;       /* [M, K], read only */
    fp8gemm_matrix b;       /* [N, K], read only */
    fp8gemm_matrix scale_a; /* f32, read only */
    fp8gemm_matrix scale_b; /* f32, read only */
    fp8gemm_matrix c;       /* [M, N], read only; data is NULL where there is none; not read if beta is 0 */
    fp8gemm_matrix d;       /* [M, N], the only memory to be written */
    uint32_t scales_a;      /* enum fp8gemm_scales */
    uint32_t scales_b;
    uint32_t policy; /* enum fp8gemm_policy */
    uint32_t policy_parameter;
    float alpha;
    float beta;
} fp8gemm_gemm;

/* Returns FP8GEMM_EXTERNAL_VERSION as the library was compiled with. */
uint32_t fp8gemm_external_version(void);

/* Computes D. */
int32_t fp8gemm_external_gemm(const fp8gemm_gemm *gemm);

/* Optional: a name for reports, a string that lives as long as the library. At most 100 characters of it
 * are shown. */
const char *fp8gemm_external_name(void);

#ifdef __cplusplus
}
#endif

#endif
