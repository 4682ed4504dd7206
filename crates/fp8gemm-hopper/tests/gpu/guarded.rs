//! Launches with every buffer between guard bands and every gap filled: nothing may be read into the
//! result, or written, outside the matrices.

use std::sync::Arc;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, LaunchOptions, Operands, Plan, ScaleForm};
use fp8gemm_jit::Store;
use fp8gemm_problem::{OutputType, Side};
use fp8gemm_sim::Matrix;
use rand::{Rng, rngs::StdRng};

use crate::data::{Case, bytes};

/// Bytes before and after each matrix: more than a tile of the widest strides used here.
const GUARD: usize = 1 << 15;

/// A matrix of `size`-byte elements in device memory between guards, and the bytes that were put there.
struct Guarded {
    image: Vec<u8>,
    device: CudaSlice<u8>,
    start: usize,
    columns: usize,
    /// Elements.
    stride: usize,
    size: usize,
}

impl Guarded {
    /// `data` row by row, `stride` elements apart, at an address that is `offset` bytes beyond a
    /// multiple of 256; everything else is `filler`.
    fn new(
        stream: &Arc<CudaStream>,
        data: &[u8],
        columns: usize,
        stride: usize,
        size: usize,
        offset: usize,
        filler: u8,
    ) -> Self {
        let rows = data.len() / (columns * size);
        let start = GUARD + offset;
        let mut image = vec![filler; start + rows * stride * size + GUARD];
        for (row, line) in data.chunks_exact(columns * size).enumerate() {
            image[start + row * stride * size..][..line.len()].copy_from_slice(line);
        }
        let device = stream.clone_htod(&image).unwrap();
        Self { image, device, start, columns, stride, size }
    }

    fn matrix(&self, stream: &CudaStream) -> DeviceMatrix {
        DeviceMatrix { pointer: self.device.device_ptr(stream).0 + self.start as u64, stride: self.stride }
    }

    fn reset(&mut self, stream: &Arc<CudaStream>) {
        stream.memcpy_htod(&self.image, &mut self.device).unwrap();
    }

    fn now(&self, stream: &Arc<CudaStream>) -> Vec<u8> {
        stream.clone_dtoh(&self.device).unwrap()
    }

    /// Where a byte lies: row, element, and whether that is within the row's columns.
    fn place(&self, at: usize) -> String {
        let at = at as isize - self.start as isize;
        let row = at.div_euclid((self.stride * self.size) as isize);
        let column = at.rem_euclid((self.stride * self.size) as isize) as usize / self.size;
        format!("row {row}, element {column} of {} (stride {})", self.columns, self.stride)
    }
}

/// The scales as the kernel wants them, stored without padding: rows, columns, numbers.
fn stored(form: ScaleForm, x: &ScaledMatrix) -> (usize, Vec<u8>) {
    let (rows, k) = (x.rows(), x.columns());
    let (height, width) = form.shape(rows, k);
    let (block_rows, block_columns) = x.layout().block(rows, k);
    let mut stored = Vec::new();
    for i in 0..height {
        for j in 0..width {
            let (row, column) = match form {
                ScaleForm::One => (0, 0),
                ScaleForm::Rows => (j, 0),
                ScaleForm::BlocksByRows => (j, i * 128),
                ScaleForm::Squares => (i * 128, j * 128),
            };
            stored.extend(x.scales()[(row / block_rows, column / block_columns)].to_ne_bytes());
        }
    }
    (width, stored)
}

/// Runs the case twice, with and without dependent launch, in random strides and addresses (C in
/// D's place where that is possible, half of the time), and asserts that D has the twin's bits and
/// nothing else has changed, the bytes between its rows included.
pub(crate) fn check(plan: &Plan, case: &Case, twin: &Matrix, stream: &Arc<CudaStream>, what: &str, rng: &mut StdRng) {
    let p = &case.problem;
    let mut wider = |columns: usize, unit: usize| columns.next_multiple_of(unit) + unit * rng.random_range(0..3usize);
    let (stride_a, stride_b) = (wider(p.k, 16), wider(p.k, 16));
    let (stride_sa, stride_sb) = (wider(p.m, 4), wider(p.n, 4));
    let size = p.d.size();
    // What the way of storing D asks of C and D, and no more.
    let unit = |size: usize| if plan.config().store == Store::Tma { 16 / size } else { 1 };
    let size_c = p.c.map_or(1, OutputType::size);
    let (stride_c, stride_d) = (wider(p.n, unit(size_c)), wider(p.n, unit(size)));
    let mut offset = |unit: usize| unit * rng.random_range(0..8usize);
    // NaN between the rows: nothing there may be taken for data.
    let codes = |x: &ScaledMatrix, stride, offset| {
        let data: Vec<u8> = x.codes().iter().copied().collect();
        Guarded::new(stream, &data, p.k, stride, 1, offset, 0x7F)
    };
    let a = codes(&case.a, stride_a, offset(16));
    let b = codes(&case.b, stride_b, offset(16));
    let mut scales = |side, x: &ScaledMatrix, stride| {
        let form = plan.scale_form(side);
        let (columns, data) = stored(form, x);
        let (stride, unit) = if form == ScaleForm::BlocksByRows { (stride, 16) } else { (columns, 4) };
        Guarded::new(stream, &data, columns, stride, 4, offset(unit), 0xFF)
    };
    let sa = scales(Side::A, &case.a, stride_sa);
    let sb = scales(Side::B, &case.b, stride_sb);
    let c = case.c.as_ref().filter(|_| p.epilogue.reads_c());
    let in_place = c.is_some_and(|c| c.ty() == p.d) && rng.random();
    let separate = c.filter(|_| !in_place).map(|c| {
        let size = c.ty().size();
        Guarded::new(
            stream,
            &bytes(&c.view()),
            p.n,
            stride_c,
            size,
            size * unit(size) * rng.random_range(0..8usize),
            0xFF,
        )
    });
    let expected = bytes(&twin.view());
    let poison = vec![0xAB; expected.len()];
    let before = c.filter(|_| in_place).map_or(poison, |c| bytes(&c.view()));
    let mut d =
        Guarded::new(stream, &before, p.n, stride_d, size, size * unit(size) * rng.random_range(0..8usize), 0xAB);
    let at_d = d.matrix(stream);
    let operands = Operands {
        a: a.matrix(stream),
        b: b.matrix(stream),
        scale_a: sa.matrix(stream),
        scale_b: sb.matrix(stream),
        c: if in_place { Some(at_d) } else { separate.as_ref().map(|c| c.matrix(stream)) },
        d: at_d,
    };
    // Zeroed once; both launches use it.
    let workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes().max(1)).unwrap();
    let (pointer, _workspace) = workspace.device_ptr(stream);
    let prepared = plan.prepare_with_workspace(&operands, pointer).unwrap_or_else(|error| panic!("{what}: {error}"));

    for overlap in [false, true] {
        d.reset(stream);
        let options = LaunchOptions::default().overlapping_previous(overlap).constant_weights(overlap);
        // SAFETY: all matrices lie inside allocations that live until this function returns, and
        // the copy below waits for the launch; no kernel writes B.
        unsafe { prepared.launch_with(stream, options) }.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = d.now(stream);
        let mut whole = d.image.clone();
        for (row, line) in expected.chunks_exact(p.n * size).enumerate() {
            let start = d.start + row * stride_d * size;
            whole[start..][..line.len()].copy_from_slice(line);
        }
        if found != whole {
            let bad: Vec<usize> = (0..found.len()).filter(|&at| found[at] != whole[at]).collect();
            let first = bad[0] / size * size;
            panic!(
                "{what}: {} bytes of D and its guards differ, first at {}: GPU {:x?}, expected {:x?} (overlap {overlap}, C in place {in_place})",
                bad.len(),
                d.place(first),
                &found[first..first + size],
                &whole[first..first + size],
            );
        }
    }
    let inputs = [("A", &a), ("B", &b), ("scales of A", &sa), ("scales of B", &sb)];
    for (name, buffer) in inputs.into_iter().chain(separate.as_ref().map(|c| ("C", c))) {
        let found = buffer.now(stream);
        if let Some(at) = (0..found.len()).find(|&at| found[at] != buffer.image[at]) {
            panic!("{what}: {name} or its guards were written, first at {}", buffer.place(at));
        }
    }
}
