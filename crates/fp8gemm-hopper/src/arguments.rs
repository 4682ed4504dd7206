//! What a launch tells the kernel: its one parameter, and how many CTAs there are. The only place
//! that knows the layout of `struct Arguments` in the kernel's source.

use std::mem::offset_of;

use cudarc::driver::sys;
use fp8gemm_jit::KernelConfig;
use fp8gemm_problem::Problem;

use crate::HopperError;
use crate::operands::{DeviceMatrix, Operands};
use crate::scales::ScaleForm;
use crate::tensor_map::{Element, Layout, encode};

/// The kernel's one parameter; `struct Arguments` of the kernel's source. Unused parts are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub(crate) struct Arguments {
    a: sys::CUtensorMap,
    b: sys::CUtensorMap,
    scale_a: sys::CUtensorMap,
    scale_b: sys::CUtensorMap,
    d: sys::CUtensorMap,
    d_tiles: sys::CUtensorMap,
    scales_a: u64,
    scales_b: u64,
    c: u64,
    c_stride: u64,
    m: u32,
    n: u32,
    k: u32,
    scales_a_step: u32,
    scales_b_step: u32,
    alpha: f32,
    beta: f32,
}

// What the kernel reads lies where the compiler of the kernel puts it.
const _: () = assert!(size_of::<sys::CUtensorMap>() == 128);
const _: () = assert!(offset_of!(Arguments, scales_a) == 768 && offset_of!(Arguments, m) == 800);
const _: () = assert!(offset_of!(Arguments, beta) == 824 && size_of::<Arguments>() == 896);

/// CTAs of a launch: one for each SM, or for each tile where there are fewer; whole clusters.
pub(crate) fn grid(problem: &Problem, config: &KernelConfig, sms: u32) -> u32 {
    let tiles_n = problem.n.div_ceil(config.block_n as usize).next_multiple_of(config.cluster as usize);
    let tiles = problem.m.div_ceil(config.block_m as usize) as u64 * tiles_n as u64;
    // At most the number of SMs.
    tiles.min(u64::from(sms / config.cluster * config.cluster)) as u32
}

impl Arguments {
    /// Encodes what `operands` say; they and `forms` have been checked.
    pub(crate) fn encode(
        p: &Problem,
        config: &KernelConfig,
        operands: &Operands,
        [form_a, form_b]: [ScaleForm; 2],
    ) -> Result<Self, HopperError> {
        let (m, n, k) = (p.m as u64, p.n as u64, p.k as u64);
        let operand = |matrix: DeviceMatrix, rows: u64, block: u32| {
            encode(&Layout {
                element: Element::U8,
                pointer: matrix.pointer,
                dimensions: &[k, rows],
                strides: &[matrix.stride as u64],
                extent: &[128, block],
                swizzle: true,
            })
        };
        let unused = sys::CUtensorMap { opaque: [0; 16] };
        let scales = |form: ScaleForm, matrix: DeviceMatrix, rows: u64, block: u32| {
            if form != ScaleForm::BlocksByRows {
                return Ok(unused);
            }
            encode(&Layout {
                element: Element::F32,
                pointer: matrix.pointer,
                dimensions: &[rows, k.div_ceil(128)],
                strides: &[matrix.stride as u64 * 4],
                extent: &[block, 1],
                swizzle: false,
            })
        };
        let size = p.d.size() as u64;
        let element = if size == 4 { Element::F32 } else { Element::U16 };
        // D leaves in atoms of 64 rows and 128 bytes.
        let columns = 128 / size as u32;
        let d = encode(&Layout {
            element,
            pointer: operands.d.pointer,
            dimensions: &[n, m],
            strides: &[operands.d.stride as u64 * size],
            extent: &[columns, 64],
            swizzle: true,
        })?;
        let whole_tiles = n / u64::from(config.block_n);
        // Read only where an atom ends beyond its tile and the tile is whole.
        let d_tiles = if config.block_n.is_multiple_of(columns) || whole_tiles == 0 {
            d
        } else {
            encode(&Layout {
                element,
                pointer: operands.d.pointer,
                dimensions: &[u64::from(config.block_n), whole_tiles, m],
                strides: &[u64::from(config.block_n) * size, operands.d.stride as u64 * size],
                extent: &[columns, 1, 64],
                swizzle: true,
            })?
        };
        Ok(Self {
            a: operand(operands.a, m, config.block_m)?,
            b: operand(operands.b, n, config.block_n)?,
            scale_a: scales(form_a, operands.scale_a, m, config.block_m)?,
            scale_b: scales(form_b, operands.scale_b, n, config.block_n)?,
            d,
            d_tiles,
            scales_a: operands.scale_a.pointer,
            scales_b: operands.scale_b.pointer,
            c: operands.c.map_or(0, |c| c.pointer),
            c_stride: operands.c.map_or(0, |c| c.stride as u64),
            // `check_sizes` has seen that they fit.
            m: m as u32,
            n: n as u32,
            k: k as u32,
            scales_a_step: u32::from(form_a == ScaleForm::Rows),
            scales_b_step: u32::from(form_b == ScaleForm::Rows),
            alpha: p.epilogue.alpha,
            beta: p.epilogue.beta,
        })
    }
}
