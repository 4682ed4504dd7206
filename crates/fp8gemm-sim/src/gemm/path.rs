//! Which implementation of the tensor-core chains runs.

/// An implementation of the Hopper FP8 chain. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// AVX-512F, BW and their like: 16 outputs at a time.
    Avx512,
    /// AVX2 and FMA: 8 outputs at a time.
    Avx2,
    /// The same integer form in plain Rust, 16 outputs at a time; the compiler vectorises it for
    /// NEON and SSE2.
    Portable,
    /// The specification itself ([`TensorCore::dot`](crate::tensor_core::TensorCore::dot)), one
    /// output at a time.
    Generic,
}

impl Path {
    /// The fastest path of this machine.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Every path that this machine can run, fastest first.
    pub fn available() -> &'static [Self] {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            if pulp::x86::V4::try_new().is_some() {
                return &[Self::Avx512, Self::Avx2, Self::Portable, Self::Generic];
            }
            if pulp::x86::V3::try_new().is_some() {
                return &[Self::Avx2, Self::Portable, Self::Generic];
            }
        }
        &[Self::Portable, Self::Generic]
    }
}
