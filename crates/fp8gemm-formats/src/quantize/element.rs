//! [`Element`]: the types a matrix may have before it is quantised.

use fp8gemm_problem::OutputType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// An input type of [`quantize`](super::quantize): f32, bf16 or f16. All widen to f32 exactly, and
/// every recipe computes in f32.
///
/// This trait is sealed: a new input type needs a decision in every recipe.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// The largest finite value, which TransformerEngine's block scaling takes for a scale that
    /// overflows f32.
    const LARGEST: f32;

    /// The same type as a value.
    const TYPE: OutputType;

    /// The value as f32, exact.
    fn widen(self) -> f32;

    /// The slice itself where it is f32 already.
    #[doc(hidden)]
    fn as_f32(source: &[Self]) -> Option<&[f32]>;

    /// Widens each element; both slices have the same length.
    #[doc(hidden)]
    fn widen_slice(source: &[Self], destination: &mut [f32]);
}

impl Element for f32 {
    const LARGEST: f32 = f32::MAX;
    const TYPE: OutputType = OutputType::F32;

    fn widen(self) -> f32 {
        self
    }

    fn as_f32(source: &[Self]) -> Option<&[f32]> {
        Some(source)
    }

    fn widen_slice(source: &[Self], destination: &mut [f32]) {
        destination.copy_from_slice(source);
    }
}

impl Element for bf16 {
    const LARGEST: f32 = f32::from_bits(0x7F7F_0000);
    const TYPE: OutputType = OutputType::Bf16;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn widen_slice(source: &[Self], destination: &mut [f32]) {
        // A shift, which vectorises; signalling NaNs stay NaNs, which is all that matters here.
        for (wide, narrow) in destination.iter_mut().zip(source) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
    }
}

impl Element for f16 {
    const LARGEST: f32 = 65504.0;
    const TYPE: OutputType = OutputType::F16;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn widen_slice(source: &[Self], destination: &mut [f32]) {
        source.convert_to_f32_slice(destination);
    }
}

/// [`Element::LARGEST`] of a type that is known at run time.
pub(super) const fn largest(input: OutputType) -> f32 {
    match input {
        OutputType::Bf16 => <bf16 as Element>::LARGEST,
        OutputType::F16 => <f16 as Element>::LARGEST,
        OutputType::F32 => <f32 as Element>::LARGEST,
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}
