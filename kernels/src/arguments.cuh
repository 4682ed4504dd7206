// What launches are told, whichever kernel computes the product.

// Everything that changes from launch to launch. Unused parts may be null.
struct Arguments {
    TensorMap a;       // boxes of a whole tile's rows, or of a part that is shared; else unused where M has fewer
    TensorMap a_rest;  // of the rows of a last tile that has fewer, for one block of K; unused where A is shared
    TensorMap b, scale_a, scale_b;
    TensorMap c, d;     // 2D, in atoms of 64 rows and 128 bytes
    TensorMap d_tiles;  // 3D {BLOCK_N, whole tiles, M}: an atom is clipped at the end of its tile
    const float* scales_a;  // at the end: [M] or one; decode: [ceil(K/128), M]; else unused
    const float* scales_b;  // at the end: [N] or one; 1D2D: [ceil(N/128), ceil(K/128)]
    const void* c_elements;
    void* d_elements;
    u64 c_stride, d_stride;  // elements
    u8* workspace;           // stream-K: a partial tile and a flag of each CTA
    u32 m, n, k;
    u32 scales_a_step, scales_b_step;  // 0 for a tensor scale, 1 for row scales
    float alpha, beta;
    u32 group;  // rows of tiles that are walked together
    u32 weights_constant;  // decode: no kernel before on the stream writes B
    u64 scales_a_stride;   // decode: from block to block of K, in scales
    u64 policy_b;          // L2 policy of loads of B
};

constexpr u32 BLOCK_K = 128;
