//! What a launch tells the kernel: its one parameter, and how many CTAs there are. The only place
//! that knows the layout of `struct Arguments` in the kernel's source.

use std::mem::offset_of;

use cudarc::driver::sys;
use fp8gemm_jit::{KernelConfig, Schedule, Share, Store, tiles};
use fp8gemm_problem::Problem;

use crate::HopperError;
use crate::l2::{EVICT_NORMAL, l2_policy};
use crate::operands::{DeviceMatrix, Operands};
use crate::scales::ScaleForm;
use crate::tensor_map::{Element, Layout, encode};

/// The kernel's one parameter; `struct Arguments` of the kernel's source. Unused parts are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub(crate) struct Arguments {
    a: sys::CUtensorMap,
    a_rest: sys::CUtensorMap,
    b: sys::CUtensorMap,
    scale_a: sys::CUtensorMap,
    scale_b: sys::CUtensorMap,
    c: sys::CUtensorMap,
    d: sys::CUtensorMap,
    d_tiles: sys::CUtensorMap,
    scales_a: u64,
    scales_b: u64,
    c_elements: u64,
    d_elements: u64,
    c_stride: u64,
    d_stride: u64,
    workspace: u64,
    m: u32,
    n: u32,
    k: u32,
    scales_a_step: u32,
    scales_b_step: u32,
    alpha: f32,
    beta: f32,
    group: u32,
    weights_constant: u32,
    scales_a_stride: u64,
    policy_b: u64,
}

/// B as the kernel reads it: once, or as often as there are rows of tiles. (What clusters share is loaded by
/// multicast, without a policy.)
fn policy_b(p: &Problem, config: &KernelConfig) -> u64 {
    let once = p.m <= config.block_m as usize;
    if once { l2_policy(p.n as u128 * p.k as u128) } else { EVICT_NORMAL }
}

// What the kernel reads lies where the compiler of the kernel puts it.
const _: () = assert!(size_of::<sys::CUtensorMap>() == 128);
const _: () = assert!(offset_of!(Arguments, scales_a) == 1024 && offset_of!(Arguments, m) == 1080);
const _: () = assert!(offset_of!(Arguments, policy_b) == 1128 && size_of::<Arguments>() == 1152);

/// CTAs of a launch: one for each SM, or for each tile where there are fewer or operands are swapped; whole
/// clusters.
pub(crate) fn grid(problem: &Problem, config: &KernelConfig, sms: u32) -> u32 {
    let ctas = u64::from(sms / config.cluster() * config.cluster());
    // At most the number of SMs. Runs of stream-K are for all of them.
    match config.schedule {
        Schedule::StreamK => ctas as u32,
        // `check_sizes` has seen that they fit.
        Schedule::Swapped => tiles(problem, config) as u32 * config.cluster(),
        Schedule::Cooperative | Schedule::PingPong => tiles(problem, config).min(ctas) as u32,
    }
}

impl Arguments {
    /// Encodes what `operands` say; they and `forms` have been checked.
    pub(crate) fn encode(
        p: &Problem,
        config: &KernelConfig,
        operands: &Operands,
        forms: [ScaleForm; 2],
        workspace: u64,
    ) -> Result<Self, HopperError> {
        let unused = sys::CUtensorMap { opaque: [0; 16] };
        let mut arguments = Self {
            a: unused,
            a_rest: unused,
            b: unused,
            scale_a: unused,
            scale_b: unused,
            c: unused,
            d: unused,
            d_tiles: unused,
            scales_a: 0,
            scales_b: 0,
            c_elements: 0,
            d_elements: 0,
            c_stride: 0,
            d_stride: 0,
            workspace,
            // `check_sizes` has seen that they fit.
            m: p.m as u32,
            n: p.n as u32,
            k: p.k as u32,
            scales_a_step: u32::from(forms[0] == ScaleForm::Rows),
            scales_b_step: u32::from(forms[1] == ScaleForm::Rows),
            alpha: p.epilogue.alpha,
            beta: p.epilogue.beta,
            group: config.group,
            weights_constant: 0,
            scales_a_stride: 0,
            policy_b: policy_b(p, config),
        };
        arguments.point(p, config, forms, None, operands)?;
        Ok(arguments)
    }

    /// For a launch that may read B before the kernel before it has ended.
    pub(crate) fn with_constant_weights(&self) -> Self {
        Self { weights_constant: 1, ..*self }
    }

    /// Points at `new` matrices; maps of matrices that are those of `old` are kept, since encoding
    /// one takes the driver about a quarter of a microsecond.
    pub(crate) fn point(
        &mut self,
        p: &Problem,
        config: &KernelConfig,
        [form_a, form_b]: [ScaleForm; 2],
        old: Option<&Operands>,
        new: &Operands,
    ) -> Result<(), HopperError> {
        let changed = |of: fn(&Operands) -> DeviceMatrix| old.is_none_or(|old| of(old) != of(new));
        let (m, n) = (p.m as u64, p.n as u64);
        if changed(|o| o.a) {
            // Rows of A that do not exist are not loaded (but for what is shared): boxes of the last tile end before.
            // `produce` of gemm.cu and `struct Producer` of decode.cu count bytes by the same conditions.
            let (shared, rows) = (config.share == Share::A, config.block_m);
            let rest = p.m % rows as usize;
            if shared || p.m >= rows as usize {
                self.a = codes(p, new.a, m, rows / config.share.along_n(), config.stage_blocks())?;
            }
            if !shared && rest > 0 {
                self.a_rest = codes(p, new.a, m, rest as u32, 1)?;
            }
        }
        if changed(|o| o.b) {
            self.b = codes(p, new.b, n, config.block_n / config.share.along_m(), config.stage_blocks())?;
        }
        let swapped = config.schedule == Schedule::Swapped;
        if form_a == ScaleForm::BlocksByRows && !swapped && changed(|o| o.scale_a) {
            self.scale_a = scales(p, config, new.scale_a, m, config.block_m)?;
        }
        if form_b == ScaleForm::BlocksByRows && changed(|o| o.scale_b) {
            self.scale_b = scales(p, config, new.scale_b, n, config.block_n)?;
        }
        if config.store == Store::Tma {
            if changed(|o| o.d) {
                (self.d, self.d_tiles) = stores(p, config, new.d)?;
            }
            if let Some(c) = new.c.filter(|c| old.and_then(|old| old.c) != Some(*c)) {
                self.c = atoms(p, config, c)?;
            }
        }
        self.scales_a = new.scale_a.pointer;
        self.scales_a_stride = new.scale_a.stride as u64;
        self.scales_b = new.scale_b.pointer;
        self.c_elements = new.c.map_or(0, |c| c.pointer);
        self.c_stride = new.c.map_or(0, |c| c.stride as u64);
        self.d_elements = new.d.pointer;
        self.d_stride = new.d.stride as u64;
        Ok(())
    }
}

/// An operand, loaded in blocks of 128 of K and `block` rows. Where several of them are loaded at once and K is
/// whole blocks, these are a dimension of their own.
fn codes(
    p: &Problem,
    matrix: DeviceMatrix,
    rows: u64,
    block: u32,
    blocks: u32,
) -> Result<sys::CUtensorMap, HopperError> {
    let (element, pointer, swizzle) = (Element::U8, matrix.pointer, true);
    let (k, stride) = (p.k as u64, matrix.stride as u64);
    if blocks > 1 && k.is_multiple_of(128) {
        let (dimensions, strides) = (&[128, rows, k / 128], &[stride, 128]);
        return encode(&Layout { element, pointer, dimensions, strides, extent: &[128, block, blocks], swizzle });
    }
    encode(&Layout { element, pointer, dimensions: &[k, rows], strides: &[stride], extent: &[128, block], swizzle })
}

/// Scales of form `BlocksByRows`, loaded for `block` rows of the blocks of K of a stage.
fn scales(
    p: &Problem,
    config: &KernelConfig,
    matrix: DeviceMatrix,
    rows: u64,
    block: u32,
) -> Result<sys::CUtensorMap, HopperError> {
    encode(&Layout {
        element: Element::F32,
        pointer: matrix.pointer,
        dimensions: &[rows, p.k.div_ceil(128) as u64],
        strides: &[matrix.stride as u64 * 4],
        extent: &[block, config.in_flight],
        swizzle: false,
    })
}

/// C or D in atoms of 128 bytes and 64 rows, or a tile's where it has fewer.
fn atoms(p: &Problem, config: &KernelConfig, matrix: DeviceMatrix) -> Result<sys::CUtensorMap, HopperError> {
    let size = p.d.size() as u64;
    encode(&Layout {
        element: if size == 4 { Element::F32 } else { Element::U16 },
        pointer: matrix.pointer,
        dimensions: &[p.n as u64, p.m as u64],
        strides: &[matrix.stride as u64 * size],
        extent: &[128 / size as u32, config.block_m.min(64)],
        swizzle: true,
    })
}

/// D in atoms; and D as whole tiles of columns, where an atom can end beyond its tile (else the same
/// map again, which nobody reads).
fn stores(
    p: &Problem,
    config: &KernelConfig,
    d: DeviceMatrix,
) -> Result<(sys::CUtensorMap, sys::CUtensorMap), HopperError> {
    let (m, n, size) = (p.m as u64, p.n as u64, p.d.size() as u64);
    let columns = 128 / size as u32;
    let whole = atoms(p, config, d)?;
    let block = u64::from(config.block_n);
    if config.block_n.is_multiple_of(columns) || n < block {
        return Ok((whole, whole));
    }
    let tiles = encode(&Layout {
        element: if size == 4 { Element::F32 } else { Element::U16 },
        pointer: d.pointer,
        dimensions: &[block, n / block, m],
        strides: &[block * size, d.stride as u64 * size],
        extent: &[columns, 1, config.block_m.min(64)],
        swizzle: true,
    })?;
    Ok((whole, tiles))
}
