//! Device memory with a raw address, as launches take it.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};
use fp8gemm_problem::Problem;

use crate::BenchError;
use crate::subject::stride_of_d;

/// Refuses a problem whose codes and D do not fit what the GPU has free, before the host makes them.
pub(crate) fn check_fits(stream: &Arc<CudaStream>, problem: &Problem) -> Result<(), BenchError> {
    // What was dropped is free once the stream has got there.
    stream.synchronize().map_err(BenchError::cuda("cuStreamSynchronize"))?;
    let (free, _) = stream.context().mem_get_info().map_err(BenchError::cuda("cuMemGetInfo"))?;
    let needed = bytes(problem);
    let free = free as u64;
    if needed > u128::from(free) { Err(BenchError::Memory { problem: *problem, needed, free }) } else { Ok(()) }
}

/// Of codes and D on the GPU; 1x128 scales are 3 % of their codes.
fn bytes(problem: &Problem) -> u128 {
    let product = |rows: usize, columns: usize| rows as u128 * columns as u128;
    let k = problem.k.next_multiple_of(16);
    product(problem.m, k) + product(problem.n, k) + product(problem.m, stride_of_d(problem) * problem.d.size())
}

/// Bytes on the GPU.
pub(crate) struct Buffer {
    slice: CudaSlice<u8>,
    pointer: u64,
}

impl Buffer {
    /// All bytes `value`.
    pub(crate) fn filled(stream: &Arc<CudaStream>, bytes: usize, value: u8) -> Result<Self, BenchError> {
        // SAFETY: filled below before anything reads it.
        let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(BenchError::cuda("cuMemAlloc"))?;
        let (pointer, _) = slice.device_ptr(stream);
        let buffer = Self { slice, pointer };
        buffer.fill(stream, value)?;
        Ok(buffer)
    }

    /// A copy of host memory.
    pub(crate) fn upload(stream: &Arc<CudaStream>, data: &[u8]) -> Result<Self, BenchError> {
        let slice = stream.clone_htod(data).map_err(BenchError::cuda("cuMemcpyHtoD"))?;
        let (pointer, _) = slice.device_ptr(stream);
        Ok(Self { slice, pointer })
    }

    pub(crate) fn upload_f32(stream: &Arc<CudaStream>, data: &[f32]) -> Result<Self, BenchError> {
        let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_ne_bytes()).collect();
        Self::upload(stream, &bytes)
    }

    /// Another buffer with the same bytes.
    pub(crate) fn duplicate(&self, stream: &Arc<CudaStream>) -> Result<Self, BenchError> {
        let slice = stream.clone_dtod(&self.slice).map_err(BenchError::cuda("cuMemcpyDtoD"))?;
        let (pointer, _) = slice.device_ptr(stream);
        Ok(Self { slice, pointer })
    }

    pub(crate) fn pointer(&self) -> u64 {
        self.pointer
    }

    pub(crate) fn len(&self) -> usize {
        self.slice.len()
    }

    /// Sets every byte, in stream order.
    pub(crate) fn fill(&self, stream: &CudaStream, value: u8) -> Result<(), BenchError> {
        // SAFETY: this is all of the allocation, which lives as long as `self`; the caller keeps
        // `self` until the stream is waited for, as freeing is in stream order too.
        unsafe { result::memset_d8_async(self.pointer, value, self.len(), stream.cu_stream()) }
            .map_err(BenchError::cuda("cuMemsetD8Async"))
    }

    /// Repeats `pattern` over the buffer, from its start.
    pub(crate) fn tile(&self, stream: &Arc<CudaStream>, pattern: &Self) -> Result<(), BenchError> {
        let mut done = 0;
        while done < self.len() {
            // What is there already is copied again: a multiple of the pattern's length, so in step.
            let (source, bytes) = match done {
                0 => (pattern.pointer, pattern.len()),
                done => (self.pointer, done),
            };
            let bytes = bytes.min(self.len() - done);
            // SAFETY: source and destination are inside of live allocations and do not overlap:
            // the source ends at `done` at the latest.
            unsafe { result::memcpy_dtod_async(self.pointer + done as u64, source, bytes, stream.cu_stream()) }
                .map_err(BenchError::cuda("cuMemcpyDtoDAsync"))?;
            done += bytes;
        }
        // The pattern may be freed after this.
        stream.synchronize().map_err(BenchError::cuda("cuStreamSynchronize"))
    }

    /// `bytes` from `offset` on, once the stream has got there.
    pub(crate) fn download(
        &self,
        stream: &Arc<CudaStream>,
        offset: usize,
        bytes: usize,
    ) -> Result<Vec<u8>, BenchError> {
        let mut host = vec![0; bytes];
        stream
            .memcpy_dtoh(&self.slice.slice(offset..offset + bytes), host.as_mut_slice())
            .map_err(BenchError::cuda("cuMemcpyDtoH"))?;
        stream.synchronize().map_err(BenchError::cuda("cuStreamSynchronize"))?;
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a large problem is taken for a small one: by 32 bits, by forgotten padding, or without D.
    #[test]
    fn a_problem_needs_its_codes_and_d() {
        let problem = |text: &str| text.parse().unwrap();
        assert_eq!(bytes(&problem("3x5x7 a=e4m3:1x128 b=e4m3:128x128 d=bf16")), 3 * 16 + 5 * 16 + 3 * 8 * 2);
        let large = problem("200000x100000x16384 a=e4m3:1x128 b=e4m3:128x128 d=f32");
        assert_eq!(bytes(&large), 300_000 * 16_384 + 4 * 200_000 * 100_000);
    }
}
