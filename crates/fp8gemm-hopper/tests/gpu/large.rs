//! Matrices of more than 2^31 elements or bytes: every index that is 32 bits wide somewhere would
//! wrap. Rows repeat with a period that no power of two is a multiple of, and some are compared with
//! the twin.

use std::sync::Arc;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use fp8gemm_hopper::{DeviceMatrix, Gpu, HopperError, Operands, Plan};
use fp8gemm_jit::{Compiler, JitError, KernelConfig, Schedule, choose};
use fp8gemm_problem::{OperandSpec, OutputType, Problem, ScaleLayout};
use fp8gemm_sim::{Matrix, MatrixView};
use half::bf16;
use ndarray::{Array2, Axis};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::data::{Case, assert_bits};
use crate::random::idle_outputs;
use crate::setup;

const PERIOD: usize = 997;

/// `block` over and over, until there are `len` elements.
fn repeated<T: DeviceRepr>(stream: &Arc<CudaStream>, block: &[T], len: usize) -> CudaSlice<T> {
    // SAFETY: all of it is written below.
    let mut memory = unsafe { stream.alloc::<T>(len) }.unwrap();
    let mut filled = block.len().min(len);
    stream.memcpy_htod(&block[..filled], &mut memory.slice_mut(..filled)).unwrap();
    while filled < len {
        let more = filled.min(len - filled);
        let (from, mut to) = memory.split_at_mut(filled);
        stream.memcpy_dtod(&from.slice(..more), &mut to.slice_mut(..more)).unwrap();
        filled += more;
    }
    memory
}

/// The first and last rows, those around every 2^31 elements, and some others.
fn sample(rows: usize, columns: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut sample = vec![0, rows - 1];
    for wrap in 1..=(rows * columns) >> 31 {
        let row = (wrap << 31) / columns;
        sample.extend([row - 1, row, (row + 1).min(rows - 1)]);
    }
    sample.extend((0..12).map(|_| rng.random_range(0..rows)));
    sample
}

/// Breaks if an index into C or D is computed in 32 bits: 2.3e9 elements, C in D's place.
#[test]
#[ignore = "needs Hopper"]
fn output_of_more_than_2_31_elements() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    let text = "40000x57344x128 a=e4m3:tensor b=e4m3:tensor d=bf16 c=bf16 beta=1";
    let problem: Problem = text.parse().unwrap();
    let (m, n, k) = (problem.m, problem.n, problem.k);
    assert!(m * n > 1 << 31);
    let block = Case { c: None, ..Case::random(Problem { m: PERIOD, ..problem }, &mut rng) };
    let block_c: Vec<bf16> = (0..PERIOD * n).map(|at| bf16::from_f32((at % 65521) as f32 / 64.0)).collect();
    let one = |x: &ScaledMatrix| stream.clone_htod(&[x.scales()[(0, 0)]]).unwrap();
    let a = repeated(&stream, block.a.codes().as_slice().unwrap(), m * k);
    let b = stream.clone_htod(block.b.codes().as_slice().unwrap()).unwrap();
    let (sa, sb) = (one(&block.a), one(&block.b));
    let rows = sample(m, n, &mut rng);
    let block_rows: Vec<usize> = rows.iter().map(|row| row % PERIOD).collect();
    let c = Array2::from_shape_fn((rows.len(), n), |(i, j)| block_c[block_rows[i] * n + j]);
    let twin = Case { c: Some(Matrix::Bf16(c)), ..block.rows(&block_rows) }.twin();
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let mut tried = 0;
    for candidate in choose(&problem, gpu.sms()).unwrap().candidates {
        let plan = match Plan::with_config(&gpu, &compiler, &problem, candidate.config) {
            Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
            plan => plan.unwrap(),
        };
        let mut d = repeated(&stream, &block_c, m * n);
        let in_place = at(d.device_ptr_mut(&stream).0, n);
        let operands = Operands {
            a: at(a.device_ptr(&stream).0, k),
            b: at(b.device_ptr(&stream).0, k),
            scale_a: at(sa.device_ptr(&stream).0, 1),
            scale_b: at(sb.device_ptr(&stream).0, 1),
            c: Some(in_place),
            d: in_place,
        };
        let workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1)).unwrap();
        let prepared = plan.prepare_with_workspace(&operands, workspace.device_ptr(&stream).0).unwrap();
        // SAFETY: all of it was allocated above with these shapes, on this stream.
        unsafe { prepared.launch(&stream) }.unwrap();
        let found: Vec<bf16> =
            rows.iter().flat_map(|row| stream.clone_dtoh(&d.slice(row * n..(row + 1) * n)).unwrap()).collect();
        let found = Matrix::Bf16(Array2::from_shape_vec((rows.len(), n), found).unwrap());
        assert_bits(&found, &twin, &format!("{text} on {}", candidate.config));
        tried += 1;
    }
    println!("{text}: {tried} configurations, {} rows each equal", rows.len());
}

/// Breaks if an index into A or its scales is computed in 32 bits: 2.3e9 bytes of A.
#[test]
#[ignore = "needs Hopper"]
fn operand_of_more_than_2_31_bytes() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(12);
    let text = "140000x200x16384 a=e4m3:1x128 b=e4m3:128x128 d=f32";
    let problem: Problem = text.parse().unwrap();
    let (m, k) = (problem.m, problem.k);
    assert!(m * k > 1 << 31 && problem.d == OutputType::F32);
    let block = Case::random(Problem { m: PERIOD, ..problem }, &mut rng);
    let blocks = k / 128;
    let scales = block.a.scales();
    // M-major, as the kernel reads them.
    let scales_a: Vec<f32> = (0..blocks).flat_map(|j| (0..m).map(move |i| scales[(i % PERIOD, j)])).collect();
    let scales_b: Vec<f32> = block.b.scales().iter().copied().collect();
    let a = repeated(&stream, block.a.codes().as_slice().unwrap(), m * k);
    let b = stream.clone_htod(block.b.codes().as_slice().unwrap()).unwrap();
    let (sa, sb) = (stream.clone_htod(&scales_a).unwrap(), stream.clone_htod(&scales_b).unwrap());
    let rows = sample(m, k, &mut rng);
    let block_rows: Vec<usize> = rows.iter().map(|row| row % PERIOD).collect();
    let twin = block.rows(&block_rows).twin();
    let operands = (&a, &b, &sa, &sb);
    let schedules = on_each_candidate((&gpu, &compiler), &stream, &problem, operands, m, |config, d| {
        assert_bits(&MatrixView::F32(d.view()).gather_rows(&rows), &twin, &format!("{text} on {config}"));
    });
    println!("{text}: {} configurations, {} rows each equal", schedules.len(), rows.len());
}

/// A, B and their scales.
type OnDevice<'a> = (&'a CudaSlice<u8>, &'a CudaSlice<u8>, &'a CudaSlice<f32>, &'a CudaSlice<f32>);

/// Launches every candidate on these operands (scales of A by blocks of K, in rows of `stride_scale_a`) and a D of its own,
/// of f32 and NaN before, and shows what is in D then; the schedules of those that compile.
fn on_each_candidate(
    (gpu, compiler): (&Gpu, &Compiler),
    stream: &Arc<CudaStream>,
    problem: &Problem,
    (a, b, scale_a, scale_b): OnDevice<'_>,
    stride_scale_a: usize,
    check: impl Fn(&KernelConfig, Array2<f32>),
) -> Vec<Schedule> {
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let operands = Operands {
        a: at(a.device_ptr(stream).0, problem.k),
        b: at(b.device_ptr(stream).0, problem.k),
        scale_a: at(scale_a.device_ptr(stream).0, stride_scale_a),
        scale_b: at(scale_b.device_ptr(stream).0, problem.k / 128),
        c: None,
        d: at(0, problem.n),
    };
    let mut schedules = Vec::new();
    for candidate in choose(problem, gpu.sms()).unwrap().candidates {
        let plan = match Plan::with_config(gpu, compiler, problem, candidate.config) {
            Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
            plan => plan.unwrap(),
        };
        let mut d = stream.clone_htod(&vec![f32::NAN; problem.m * problem.n]).unwrap();
        let in_d = DeviceMatrix { pointer: d.device_ptr_mut(stream).0, ..operands.d };
        let workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1)).unwrap();
        let operands = Operands { d: in_d, ..operands };
        let prepared = plan.prepare_with_workspace(&operands, workspace.device_ptr(stream).0).unwrap();
        // SAFETY: D and the workspace were allocated above; the caller holds the other operands, of these shapes, on
        // this stream.
        unsafe { prepared.launch(stream) }.unwrap();
        let d = Array2::from_shape_vec((problem.m, problem.n), stream.clone_dtoh(&d).unwrap()).unwrap();
        check(&candidate.config, d);
        schedules.push(candidate.config.schedule);
    }
    schedules
}

/// Breaks if an index into B is computed in 32 bits by kernels with swapped operands, or one into its scales: 3.3e9
/// bytes of B.
#[test]
#[ignore = "needs Hopper"]
fn weights_of_more_than_2_31_bytes_for_one_row() {
    let schedules = large_weights("1x200000x16384 a=e4m3:1x128 b=e4m3:128x128 d=f32", 13);
    assert!(schedules.contains(&Schedule::Swapped), "{schedules:?}");
}

/// Breaks if the kernels that do not swap operands do: 2.3e9 bytes of B.
#[test]
#[ignore = "needs Hopper"]
fn weights_of_more_than_2_31_bytes_for_many_rows() {
    let schedules = large_weights("200x140000x16384 a=e4m3:1x128 b=e4m3:128x128 d=f32", 29);
    assert!(!schedules.is_empty() && !schedules.contains(&Schedule::Swapped), "{schedules:?}");
}

/// Compares some columns of D with the twin, on every candidate; the schedules of those.
fn large_weights(text: &str, seed: u64) -> Vec<Schedule> {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let problem: Problem = text.parse().unwrap();
    let (m, n, k) = (problem.m, problem.n, problem.k);
    assert!(n * k > 1 << 31 && problem.d == OutputType::F32);
    let block = Case::random(Problem { n: PERIOD, ..problem }, &mut rng);
    let blocks = k / 128;
    let scales_b = Array2::from_shape_fn((n.div_ceil(128), blocks), |_| rng.random_range(1e-4..1e-2f32));
    // By blocks of K, in rows whose length TMA takes.
    let stride_scale_a = m.next_multiple_of(4);
    let mut scales_a = vec![0.0; blocks * stride_scale_a];
    for ((row, block), scale) in block.a.scales().indexed_iter() {
        scales_a[block * stride_scale_a + row] = *scale;
    }
    let a = stream.clone_htod(block.a.codes().as_slice().unwrap()).unwrap();
    let b = repeated(&stream, block.b.codes().as_slice().unwrap(), n * k);
    let (sa, sb) = (stream.clone_htod(&scales_a).unwrap(), stream.clone_htod(scales_b.as_slice().unwrap()).unwrap());
    let columns = sample(n, k, &mut rng);
    let twin = of_columns(&block, &columns, &scales_b).twin();
    let (nan, zero) = idle_outputs(&twin);
    assert!(2 * (nan + zero) < m * columns.len(), "{text}: {nan} NaN and {zero} zeros tell nothing");
    let operands = (&a, &b, &sa, &sb);
    let schedules = on_each_candidate((&gpu, &compiler), &stream, &problem, operands, stride_scale_a, |config, d| {
        assert_bits(&Matrix::F32(d.select(Axis(1), &columns)), &twin, &format!("{text} on {config}"));
    });
    println!("{text}: {} configurations, {} columns each equal", schedules.len(), columns.len());
    schedules
}

/// The problem of these columns of D, of which B's codes repeat and B's scales do not. Each has its scales along K
/// for itself then, with the same bits.
fn of_columns(block: &Case, columns: &[usize], scales_b: &Array2<f32>) -> Case {
    let rows: Vec<usize> = columns.iter().map(|column| column % PERIOD).collect();
    let codes = block.b.codes().select(Axis(0), &rows);
    let scales = scales_b.select(Axis(0), &columns.iter().map(|column| column / 128).collect::<Vec<_>>());
    let b = ScaledMatrix::new(block.b.ty(), ScaleLayout::Block1x128, codes, scales).unwrap();
    let spec = OperandSpec { scales: ScaleLayout::Block1x128, ..block.problem.b };
    let problem = Problem { n: columns.len(), b: spec, ..block.problem };
    Case { problem, a: block.a.clone(), b, c: None, kinds: block.kinds.clone() }
}

/// Breaks if columns that are taken out of D are not those of the whole product: the sample would be compared with
/// something else. Needs no GPU.
#[test]
fn columns_are_those_of_the_product() {
    let problem: Problem = "3x700x300 a=e4m3:1x128 b=e4m3:128x128 d=f32".parse().unwrap();
    let whole = Case::seeded(problem, 13);
    let columns = [0, 5, 127, 128, 300, 511, 512, 699];
    let of = of_columns(&whole, &columns, &whole.b.scales().to_owned()).twin();
    let all = Array2::from_shape_vec((3, 700), whole.twin().to_f32().into_iter().collect()).unwrap();
    assert_bits(&of, &Matrix::F32(all.select(Axis(1), &columns)), &problem);
}
