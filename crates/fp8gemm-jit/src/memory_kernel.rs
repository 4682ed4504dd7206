//! The kernels that only move memory, for measuring: their constants and their sources.

use core::fmt;

/// A kernel that moves bytes and computes nothing. Prints as one word: `stream`, `read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKernel {
    /// Reads weights and A once through a ring of [`SLOTS`](Self::SLOTS) pieces of
    /// [`PIECE`](Self::PIECE) bytes in shared memory, then writes as many bytes as D has: the least that
    /// a GEMM with few rows does. One CTA for each SM.
    Stream,
    /// Reads a stretch of memory once: leaves the L2 cache full of clean lines.
    Read,
}

impl MemoryKernel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stream, Self::Read];
    /// Bytes of a bulk copy of [`Stream`](Self::Stream).
    pub const PIECE: u32 = 16 << 10;
    /// Bulk copies that a CTA of [`Stream`](Self::Stream) has on their way.
    pub const SLOTS: u32 = 12;

    /// The kernel's symbol.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Stream => "fp8gemm_stream",
            Self::Read => "fp8gemm_read",
        }
    }

    /// Threads of a CTA.
    pub const fn threads(self) -> u32 {
        match self {
            Self::Stream => 256,
            Self::Read => 1024,
        }
    }

    /// Dynamic shared memory of a CTA: the ring and a barrier for each slot.
    pub const fn shared_bytes(self) -> u32 {
        match self {
            Self::Stream => Self::SLOTS * (Self::PIECE + 8),
            Self::Read => 0,
        }
    }

    /// The whole translation unit. The same kernel always gives the same bytes, so that they can be
    /// a cache key.
    pub fn source(self) -> String {
        let text = match self {
            Self::Stream => fp8gemm_kernels::STREAM,
            Self::Read => fp8gemm_kernels::READ,
        };
        let constants = format!(
            "\nconstexpr u32 THREADS = {};\nconstexpr u32 PIECE = {};\nconstexpr u32 SLOTS = {};\n\n",
            self.threads(),
            Self::PIECE,
            Self::SLOTS
        );
        format!("// fp8gemm {self}\n{}{constants}{text}", fp8gemm_kernels::PTX)
    }
}

impl fmt::Display for MemoryKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stream => "stream",
            Self::Read => "read",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SHARED_LIMIT;

    /// Breaks if the ring does not fit an SM, the two kernels share a text (the cache would give one for
    /// the other), or one includes a header.
    #[test]
    fn texts_differ_and_the_ring_fits() {
        let [stream, read] = MemoryKernel::ALL.map(MemoryKernel::source);
        assert_ne!(stream, read);
        for (kernel, text) in MemoryKernel::ALL.into_iter().zip([stream, read]) {
            assert!(kernel.shared_bytes() <= SHARED_LIMIT);
            assert!(text.contains(&format!(" {}(", kernel.symbol())) && !text.contains("#include"));
            assert_eq!(text, kernel.source());
        }
    }
}
