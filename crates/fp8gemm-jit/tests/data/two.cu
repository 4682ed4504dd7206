static __device__ __noinline__ int pick(const int* q, int n) {
    int a[40];
    for (int i = 0; i < n; i++) a[i * n % 40] = q[i];
    return a[n];
}
extern "C" __global__ void calls(int* p, int n) { p[0] = pick(p, n); }
extern "C" __global__ void shares(int* p) {
    __shared__ int s[512];
    s[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = s[511 - threadIdx.x];
}
