//! Launches on cudarc's slices and views of device memory: lengths are known, so nothing is unsafe.

use core::fmt;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use float8::{F8E4M3, F8E5M2};
use fp8gemm_problem::{OperandType, OutputType, Side};
use half::{bf16, f16};

use crate::context::ordered;
use crate::{DeviceMatrix, HopperError, Operands, Plan};

/// An FP8 element in memory: `u8` for codes of the type that the problem says, or one of `float8`'s
/// types, which must be the problem's. Cannot be implemented elsewhere.
pub trait Fp8: sealed::Sealed {
    /// The type, where the element tells it.
    const TYPE: Option<OperandType>;
}

/// An element of C or D: `bf16`, `f16` or `f32`. Cannot be implemented elsewhere.
pub trait OutputElement: sealed::Sealed {
    /// The type.
    const TYPE: OutputType;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for u8 {}
impl Fp8 for u8 {
    const TYPE: Option<OperandType> = None;
}

impl sealed::Sealed for F8E4M3 {}
impl Fp8 for F8E4M3 {
    const TYPE: Option<OperandType> = Some(OperandType::E4m3);
}

impl sealed::Sealed for F8E5M2 {}
impl Fp8 for F8E5M2 {
    const TYPE: Option<OperandType> = Some(OperandType::E5m2);
}

impl sealed::Sealed for bf16 {}
impl OutputElement for bf16 {
    const TYPE: OutputType = OutputType::Bf16;
}

impl sealed::Sealed for f16 {}
impl OutputElement for f16 {
    const TYPE: OutputType = OutputType::F16;
}

impl sealed::Sealed for f32 {}
impl OutputElement for f32 {
    const TYPE: OutputType = OutputType::F32;
}

/// A row-major matrix to be read, or scales in the plan's [`ScaleForm`](crate::ScaleForm): anything
/// that is a [`DevicePtr`], a `CudaSlice` or a `CudaView` for instance.
pub struct Strided<'a, T> {
    pub(crate) data: &'a dyn DevicePtr<T>,
    pub(crate) stride: usize,
}

/// A row-major matrix to be written.
pub struct StridedMut<'a, T> {
    pub(crate) data: &'a mut dyn DevicePtrMut<T>,
    pub(crate) stride: usize,
}

impl<'a, T> Strided<'a, T> {
    /// Rows that start `stride` elements apart, the first at the slice's first element.
    pub fn new<S: DevicePtr<T>>(data: &'a S, stride: usize) -> Self {
        Self { data, stride }
    }
}

impl<'a, T> StridedMut<'a, T> {
    /// Rows that start `stride` elements apart, the first at the slice's first element.
    pub fn new<S: DevicePtrMut<T>>(data: &'a mut S, stride: usize) -> Self {
        Self { data, stride }
    }
}

impl<T> fmt::Debug for Strided<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strided").field("len", &self.data.len()).field("stride", &self.stride).finish()
    }
}

impl<T> fmt::Debug for StridedMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StridedMut").field("len", &self.data.len()).field("stride", &self.stride).finish()
    }
}

/// Both operands with their scales; the rules are those of [`Operands`].
#[derive(Debug)]
pub struct Inputs<'a, A, B> {
    /// A, `[M, K]`.
    pub a: Strided<'a, A>,
    /// Scales of A in the form that [`Plan::scale_form`] says.
    pub scale_a: Strided<'a, f32>,
    /// B, `[N, K]`.
    pub b: Strided<'a, B>,
    /// Scales of B in the form that [`Plan::scale_form`] says.
    pub scale_b: Strided<'a, f32>,
}

/// Where C comes from.
pub(crate) enum Addend<'a, C> {
    None,
    Separate(&'a Strided<'a, C>),
    InPlace,
}

impl Plan {
    /// `D = alpha A B^T` on the caller's stream and in the caller's memory; returns at once. For
    /// problems with beta = 0.
    ///
    /// Safe, as far as cudarc's `DevicePtr` keeps its word: lengths are checked against shapes and
    /// strides, and its events order this launch with other uses of the slices on other streams
    /// (unless event tracking was disabled, by which the caller takes that over). To that end the stream
    /// and all slices are of [`Gpu::context`](crate::Gpu::context), whichever of the GPU's `Gpu`s. One thing
    /// cudarc does not order, here as in its own copies: of those who read a slice it remembers the last, so
    /// where several streams read one, join them (`CudaStream::join`) before it is written or dropped.
    ///
    /// Those events cost host time; [`Prepared::launch`](crate::Prepared::launch) is the bare launch. Plans
    /// that need a workspace launch by [`with_workspace`](Self::with_workspace).
    ///
    /// ```no_run
    /// use fp8gemm_hopper::{Gpu, Inputs, Plan, Strided, StridedMut};
    /// use fp8gemm_jit::{Cache, Compiler};
    /// use half::bf16;
    ///
    /// let gpu = Gpu::open(0)?;
    /// let compiler = Compiler::new(Cache::from_environment(), None);
    /// let plan = Plan::new(&gpu, &compiler, &"64x256x512 a=e4m3:row b=e4m3:row d=bf16".parse()?)?;
    /// let stream = gpu.context().new_stream()?;
    /// let (a, b) = (stream.clone_htod(&[0x38u8; 64 * 512])?, stream.clone_htod(&[0x38u8; 256 * 512])?);
    /// let (sa, sb) = (stream.clone_htod(&[1.0f32; 64])?, stream.clone_htod(&[0.5f32; 256])?);
    /// let mut d = stream.clone_htod(&[bf16::NAN; 64 * 256])?;
    /// let inputs = Inputs {
    ///     a: Strided::new(&a, 512),
    ///     scale_a: Strided::new(&sa, 64),
    ///     b: Strided::new(&b, 512),
    ///     scale_b: Strided::new(&sb, 256),
    /// };
    /// plan.gemm(&stream, &inputs, StridedMut::new(&mut d, 256))?;
    /// assert_eq!(stream.clone_dtoh(&d)?[0], bf16::from_f32(256.0)); // 512 products of 1 * 0.5
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HopperError::Type`] where elements are not the problem's, [`HopperError::Length`],
    /// [`HopperError::WrongContext`] for memory or a stream of another `CudaContext`;
    /// [`HopperError::PresenceOfC`] if the problem reads a C; those of [`Plan::prepare`] and of
    /// [`Prepared::launch`](crate::Prepared::launch).
    pub fn gemm<A: Fp8, B: Fp8, D: OutputElement>(
        &self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.run_slices::<A, B, D, D>(stream, inputs, &Addend::None, d, None)
    }

    /// `D = alpha A B^T + beta C`; for problems with a C, whose beta is not 0.
    ///
    /// # Errors
    /// As [`gemm`](Self::gemm); [`HopperError::PresenceOfC`] if the problem reads no C.
    pub fn gemm_add<A: Fp8, B: Fp8, C: OutputElement, D: OutputElement>(
        &self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        c: &Strided<'_, C>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.run_slices(stream, inputs, &Addend::Separate(c), d, None)
    }

    /// `D = alpha A B^T + beta D`; for problems whose C has D's type.
    ///
    /// # Errors
    /// As [`gemm_add`](Self::gemm_add).
    pub fn gemm_accumulate<A: Fp8, B: Fp8, D: OutputElement>(
        &self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.run_slices::<A, B, D, D>(stream, inputs, &Addend::InPlace, d, None)
    }

    pub(crate) fn run_slices<A: Fp8, B: Fp8, C: OutputElement, D: OutputElement>(
        &self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        c: &Addend<'_, C>,
        d: StridedMut<'_, D>,
        workspace: Option<&mut dyn DevicePtrMut<u8>>,
    ) -> Result<(), HopperError> {
        let p = *self.problem();
        element::<OperandType>("A", A::TYPE, p.a.ty)?;
        element::<OperandType>("B", B::TYPE, p.b.ty)?;
        element("D", Some(D::TYPE), p.d)?;
        let expected = p.c.filter(|_| p.epilogue.reads_c());
        match (c, expected) {
            (Addend::None, None) => {}
            (Addend::Separate(_) | Addend::InPlace, Some(ty)) => element("C", Some(C::TYPE), ty)?,
            (Addend::None, Some(_)) => return Err(HopperError::PresenceOfC { found: None, expected }),
            (_, None) => return Err(HopperError::PresenceOfC { found: Some(C::TYPE), expected }),
        }
        let [form_a, form_b] = [Side::A, Side::B].map(|side| self.scale_form(side));
        self.readable("A", &inputs.a, (p.m, p.k))?;
        self.readable("B", &inputs.b, (p.n, p.k))?;
        self.readable("scales of A", &inputs.scale_a, form_a.shape(p.m, p.k))?;
        self.readable("scales of B", &inputs.scale_b, form_b.shape(p.n, p.k))?;
        if let Addend::Separate(c) = c {
            self.readable("C", c, (p.m, p.n))?;
        }
        long_enough("D", d.data.len(), (p.m, p.n), d.stride)?;
        ordered("D", d.data.stream(), self.context())?;
        if let Some(workspace) = &workspace {
            long_enough("the workspace", workspace.len(), (1, self.workspace_bytes()), 0)?;
            ordered("the workspace", workspace.stream(), self.context())?;
        }
        ordered("the stream", stream, self.context())?;

        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let (a, _a) = inputs.a.data.device_ptr(stream);
        let (b, _b) = inputs.b.data.device_ptr(stream);
        let (scale_a, _scale_a) = inputs.scale_a.data.device_ptr(stream);
        let (scale_b, _scale_b) = inputs.scale_b.data.device_ptr(stream);
        let separate = match c {
            Addend::Separate(c) => Some((c.data.device_ptr(stream), c.stride)),
            _ => None,
        };
        let (pointer, _d) = d.data.device_ptr_mut(stream);
        let d = at(pointer, d.stride);
        let workspace = workspace.filter(|_| self.workspace_bytes() > 0).map(|memory| memory.device_ptr_mut(stream));
        let at_workspace = workspace.as_ref().map_or(0, |(pointer, _)| *pointer);
        // The guards above wait for events; cudarc keeps their errors for whoever asks.
        stream.context().check_err().map_err(HopperError::cuda("an earlier release or wait of cudarc"))?;
        let operands = Operands {
            a: at(a, inputs.a.stride),
            b: at(b, inputs.b.stride),
            scale_a: at(scale_a, inputs.scale_a.stride),
            scale_b: at(scale_b, inputs.scale_b.stride),
            c: match c {
                Addend::InPlace => Some(d),
                _ => separate.as_ref().map(|((pointer, _), stride)| at(*pointer, *stride)),
            },
            d,
        };
        // SAFETY: every matrix lies inside its slice, of the plan's context; slices are initialised
        // memory (allocating without is unsafe in cudarc); D and the workspace are borrowed mutably, so
        // overlap nothing. The guards order later uses and releases of the slices after this launch: stream
        // and slices are of one `CudaContext`, the one that `context::open` keeps in the mode in which
        // cudarc records and waits for their events. (Where several streams read a slice, cudarc waits for the
        // last; `gemm` says what is left to the caller.) A workspace that holds other than zeros gives a
        // wrong D and no other access to memory.
        unsafe { self.prepare_with_workspace(&operands, at_workspace)?.launch(stream) }
    }

    fn readable<T>(
        &self,
        argument: &'static str,
        matrix: &Strided<'_, T>,
        shape: (usize, usize),
    ) -> Result<(), HopperError> {
        long_enough(argument, matrix.data.len(), shape, matrix.stride)?;
        ordered(argument, matrix.data.stream(), self.context())
    }
}

/// Whether the elements are the problem's.
pub(crate) fn element<T: PartialEq + fmt::Display>(
    argument: &'static str,
    found: Option<T>,
    expected: T,
) -> Result<(), HopperError> {
    match found {
        Some(found) if found != expected => {
            Err(HopperError::Type { argument, found: found.to_string(), expected: expected.to_string() })
        }
        _ => Ok(()),
    }
}

/// Whether `len` elements hold all rows.
pub(crate) fn long_enough(
    argument: &'static str,
    len: usize,
    (rows, columns): (usize, usize),
    stride: usize,
) -> Result<(), HopperError> {
    // No overflow: a product of 64-bit numbers fits 128 bits.
    let needed = rows.saturating_sub(1) as u128 * stride as u128 + columns as u128;
    if len as u128 >= needed {
        return Ok(());
    }
    Err(HopperError::Length { argument, found: len, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a slice that ends before its matrix does is taken: the kernel would read or write
    /// the memory behind it.
    #[test]
    fn a_slice_holds_all_rows() {
        assert!(long_enough("A", 2 * 16 + 5, (3, 5), 16).is_ok());
        let error = long_enough("A", 2 * 16 + 4, (3, 5), 16).unwrap_err();
        assert_eq!(error.to_string(), "A has 36 elements, but its shape and stride need 37");
        assert!(long_enough("A", usize::MAX, (usize::MAX, 1), usize::MAX).is_err());
    }

    /// Breaks if elements of another type than the problem's are taken for it.
    #[test]
    fn elements_are_the_problems() {
        assert!(element("A", <u8 as Fp8>::TYPE, OperandType::E5m2).is_ok());
        assert!(element("A", <F8E5M2 as Fp8>::TYPE, OperandType::E5m2).is_ok());
        let error = element("A", <F8E4M3 as Fp8>::TYPE, OperandType::E5m2).unwrap_err();
        assert_eq!(error.to_string(), "A is e4m3, but the problem wants e5m2");
        assert!(element("D", Some(<bf16 as OutputElement>::TYPE), OutputType::F16).is_err());
    }
}
