//! Tensor maps: what TMA is told about a matrix in device memory.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use cudarc::driver::sys;
use sys::CUtensorMapDataType as DataType;

use crate::HopperError;

/// Element size as TMA sees it; the values never matter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Element {
    U8,
    U16,
    F32,
}

/// A matrix of two or three dimensions, the contiguous one first, and the box that one copy takes.
pub(crate) struct Layout<'a> {
    pub(crate) element: Element,
    pub(crate) pointer: u64,
    pub(crate) dimensions: &'a [u64],
    /// Bytes between neighbours in every dimension but the first; multiples of 16.
    pub(crate) strides: &'a [u64],
    pub(crate) extent: &'a [u32],
    /// Whether 16-byte chunks of a 128-byte line are permuted in shared memory.
    pub(crate) swizzle: bool,
}

/// Encodes a map. What lies outside the matrix reads as 0 and is not written.
pub(crate) fn encode(layout: &Layout<'_>) -> Result<sys::CUtensorMap, HopperError> {
    let rank = layout.dimensions.len();
    debug_assert!(layout.strides.len() + 1 == rank && layout.extent.len() == rank && rank <= 3);
    let data_type = match layout.element {
        Element::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        Element::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        Element::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = if layout.swizzle {
        sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
    } else {
        sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE
    };
    let steps = [1u32; 3];
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: `map` is aligned as the binding says; the arrays hold `rank` (strides: `rank - 1`)
    // elements and outlive the call, which only computes and writes `map`. The address is not read.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            data_type,
            rank as u32,
            layout.pointer as *mut c_void,
            layout.dimensions.as_ptr(),
            layout.strides.as_ptr(),
            layout.extent.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    code.result().map_err(HopperError::cuda("cuTensorMapEncodeTiled"))?;
    // SAFETY: the call succeeded, so it has written the map.
    Ok(unsafe { map.assume_init() })
}
