//! What happens to the accumulator before it is stored.

/// `D = cast(alpha * acc + beta * C)`, in exactly this order:
///
/// ```text
/// r = acc
/// if alpha != 1:  r = fl(alpha * r)
/// if beta  != 0:  r = fma(beta, c, r)      c widened exactly to f32
/// D = r rounded once, to nearest even, to bf16 or f16; r itself for f32
/// ```
///
/// With `beta = 0` C is never read, so NaN in it does no harm. Any NaN that leaves a step is the
/// GPU's canonical one, `0x7FFF_FFFF` (`0x7FFF` in 16 bits).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
}

impl Epilogue {
    /// `D = acc`: no scaling, C not read.
    pub const IDENTITY: Self = Self { alpha: 1.0, beta: 0.0 };

    /// `D = acc + C`: DeepGEMM's accumulating 1D1D kernel.
    pub const ACCUMULATE: Self = Self { alpha: 1.0, beta: 1.0 };

    /// Whether C is read. NaN counts as a value to multiply by, as it does in BLAS.
    pub fn reads_c(&self) -> bool {
        self.beta != 0.0
    }
}

impl Default for Epilogue {
    fn default() -> Self {
        Self::IDENTITY
    }
}
