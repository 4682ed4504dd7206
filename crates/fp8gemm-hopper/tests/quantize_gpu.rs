//! Quantisation, transposition and repacking on the GPU against `fp8gemm-formats`, bit for bit.
//! Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test quantize_gpu -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use fp8gemm_hopper::{
    DeviceMatrix, Gpu, HopperError, Inputs, OperandLayout, Plan, Quantization, QuantizeOperands, QuantizePlan,
    RelayoutPlan, Strided, StridedMut,
};
use fp8gemm_jit::{Cache, Compiler};
use fp8gemm_problem::{OperandType, OutputType, ScaleLayout};
use fp8gemm_sim::{Gemm, Matrix};
use half::{bf16, f16};
use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};

const GUARD: usize = 4096;
const POISON: u8 = 0xAB;
/// What a GPU makes of every NaN.
const NAN: u32 = 0x7FFF_FFFF;

fn setup() -> (Gpu, Compiler) {
    (Gpu::open(0).unwrap_or_else(|error| panic!("{error}")), Compiler::new(Cache::from_environment(), None))
}

/// `[height, stride]` elements of `size` bytes, `offset` elements behind a guard band; all poison but
/// for `data`, which gives the bytes of an element where there is one.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    stride: usize,
    size: usize,
}

impl Buffer {
    fn new(height: usize, stride: usize, size: usize, offset: usize) -> Self {
        let start = GUARD + offset * size;
        Self { bytes: vec![POISON; start + height * stride * size + GUARD], start, stride, size }
    }

    fn put(&mut self, i: usize, j: usize, element: &[u8]) {
        let at = self.start + (i * self.stride + j) * self.size;
        self.bytes[at..at + self.size].copy_from_slice(element);
    }

    fn upload(&self, stream: &Arc<CudaStream>) -> CudaSlice<u8> {
        stream.clone_htod(&self.bytes).unwrap()
    }

    fn matrix(&self, slice: &CudaSlice<u8>, stream: &CudaStream) -> DeviceMatrix {
        DeviceMatrix { pointer: slice.device_ptr(stream).0 + self.start as u64, stride: self.stride }
    }

    /// Asserts that device memory holds exactly this, guards and gaps among it.
    fn assert_is(&self, slice: &CudaSlice<u8>, stream: &Arc<CudaStream>, what: &str) {
        let found = stream.clone_dtoh(slice).unwrap();
        if let Some(at) = (0..found.len()).find(|&at| found[at] != self.bytes[at]) {
            let element = at as isize - self.start as isize;
            let (row, byte) = (element.div_euclid((self.stride * self.size) as isize), element);
            let bad = found.iter().zip(&self.bytes).filter(|(a, b)| a != b).count();
            panic!(
                "{what}: {bad} bytes differ, first at byte {byte} (row {row}): {} for {}",
                found[at], self.bytes[at]
            );
        }
    }
}

/// Numbers that a quantiser can get wrong, one kind for a whole matrix.
fn value(kind: u32, rng: &mut StdRng) -> f32 {
    let normal = |rng: &mut StdRng| (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0;
    match kind {
        0 => normal(rng),
        // Any bits: NaN and infinity in most blocks.
        1 => f32::from_bits(rng.random()),
        // Any finite bits of f32, f16 subnormals among them.
        2 => f32::from_bits(rng.random_range(0..0x7F80_0000u32) | u32::from(rng.random::<bool>()) << 31),
        // Subnormals and zeros of both signs: below the floor under the largest magnitude.
        3 => f32::from_bits(rng.random_range(0..0x80_0000u32) | u32::from(rng.random::<bool>()) << 31),
        4 => [0.0, -0.0][rng.random_range(0..2)],
        // Mostly zeros: blocks with one element, or with none.
        5 => {
            if rng.random_range(0..150) == 0 {
                normal(rng) * 1e-3
            } else {
                -0.0
            }
        }
        // Huge: scales near the largest f32, and infinity after narrowing to f16.
        6 => normal(rng) * 3e37,
        // Around the floor of 1e-4.
        7 => normal(rng) * 5e-5,
        // A NaN or an infinity in a few blocks, and ordinary neighbours.
        8 => match rng.random_range(0..2000) {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => f32::from_bits(0xFF80_0001),
            _ => normal(rng) * 50.0,
        },
        // Few bits of mantissa: ties, all the more with power-of-two scales.
        _ => (rng.random_range(-64i32..=64) as f32) * 0.125 * 2f32.powi(rng.random_range(-3..3)),
    }
}

/// The recipe's result on the CPU for data of one type.
fn expected(data: &Array2<f32>, q: &Quantization) -> (Array2<u8>, Array2<f32>) {
    let quantized = match q.input {
        OutputType::Bf16 => q.quantizer.quantize(data.mapv(bf16::from_f32).view()),
        OutputType::F16 => q.quantizer.quantize(data.mapv(f16::from_f32).view()),
        OutputType::F32 => q.quantizer.quantize(data.view()),
    };
    quantized.unwrap().into_parts()
}

fn bytes(ty: OutputType, value: f32) -> Vec<u8> {
    match ty {
        OutputType::Bf16 => bf16::from_f32(value).to_ne_bytes().to_vec(),
        OutputType::F16 => f16::from_f32(value).to_ne_bytes().to_vec(),
        OutputType::F32 => value.to_ne_bytes().to_vec(),
    }
}

/// One launch on `data` (`[rows, k]`) in random strides and addresses, every byte checked.
fn check(plan: &QuantizePlan, data: &Array2<f32>, stream: &Arc<CudaStream>, rng: &mut StdRng, what: &str) {
    let q = plan.quantization();
    let (rows, k) = data.dim();
    let size = q.input.size();
    let (height, width) = if q.layout == OperandLayout::KMajor { (rows, k) } else { (k, rows) };
    // Half of the inputs can be read 16 bytes at a time.
    let aligned = rng.random();
    let unit = if aligned { 16 / size } else { 1 };
    let stride = (width + rng.random_range(0..40)).next_multiple_of(unit);
    let mut input = Buffer::new(height, stride, size, if aligned { 0 } else { rng.random_range(0..16) });
    for ((row, column), &value) in data.indexed_iter() {
        let (i, j) = if q.layout == OperandLayout::KMajor { (row, column) } else { (column, row) };
        input.put(i, j, &bytes(q.input, value));
    }
    let mut codes = Buffer::new(rows, (k + rng.random_range(0..40)).next_multiple_of(16), 1, 0);
    let (height, width) = q.scale_form().shape(rows, k);
    let squares = q.quantizer.layout == ScaleLayout::Block128x128;
    let stride = if squares { width } else { (width + rng.random_range(0..20)).next_multiple_of(4) };
    let mut scales = Buffer::new(height, stride, 4, 0);
    let (device_input, mut device_codes, device_scales) =
        (input.upload(stream), codes.upload(stream), scales.upload(stream));
    let operands = QuantizeOperands {
        input: input.matrix(&device_input, stream),
        codes: codes.matrix(&device_codes, stream),
        scales: scales.matrix(&device_scales, stream),
    };
    // SAFETY: all of it was allocated above with these shapes, on this stream.
    unsafe { plan.launch(stream, &operands).unwrap() };
    let (expected_codes, expected_scales) = expected(data, q);
    for ((i, j), code) in expected_codes.indexed_iter() {
        codes.put(i, j, &[*code]);
    }
    for ((i, j), scale) in expected_scales.indexed_iter() {
        let bits = if scale.is_nan() { NAN } else { scale.to_bits() };
        let (i, j) = if squares { (i, j) } else { (j, i) };
        scales.put(i, j, &bits.to_ne_bytes());
    }
    scales.assert_is(&device_scales, stream, &format!("scales, {what}"));
    codes.assert_is(&device_codes, stream, &format!("codes, {what}"));
    input.assert_is(&device_input, stream, &format!("input, {what}"));
    // The same bits the second time, from other codes in place.
    stream.memset_zeros(&mut device_codes).unwrap();
    // SAFETY: as above.
    unsafe { plan.launch(stream, &operands).unwrap() };
    let again = stream.clone_dtoh(&device_codes).unwrap();
    for (i, j) in ndarray::indices((rows, k)) {
        let at = codes.start + i * codes.stride + j;
        assert_eq!(again[at], codes.bytes[at], "twice, {what}");
    }
}

/// Breaks if a code or scale differs from the recipe on the CPU (any type, layout, stride, alignment,
/// tail, kind of number), or a byte outside them is written: every kernel, 11 shapes each.
#[test]
#[ignore = "needs Hopper"]
fn codes_and_scales_are_the_recipes() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().default_stream();
    let mut rng = StdRng::seed_from_u64(7);
    let (mut launches, mut elements) = (0, 0);
    for input in OutputType::ALL {
        for ty in OperandType::ALL {
            for recipe in [Recipe::DeepGemm, Recipe::DeepGemmUe8m0] {
                for scales in [ScaleLayout::Block1x128, ScaleLayout::Block128x128] {
                    for layout in [OperandLayout::KMajor, OperandLayout::MnMajor] {
                        let quantizer = Quantizer::new(recipe).with_layout(scales).with_ty(ty);
                        for kind in 0..11 {
                            let mut size = |most: usize, unit: usize| {
                                let free = rng.random_range(1..=most);
                                if rng.random() { free } else { free.next_multiple_of(unit) }
                            };
                            let (rows, k) = if kind == 10 { (1, 1) } else { (size(300, 64), size(600, 128)) };
                            let q = Quantization { rows, k, input, layout, quantizer };
                            let plan = QuantizePlan::new(&gpu, &compiler, &q).unwrap();
                            let data = Array2::from_shape_simple_fn((rows, k), || value(kind, &mut rng));
                            check(&plan, &data, &stream, &mut rng, &format!("{} of kind {kind}", plan.step()));
                            launches += 1;
                            elements += rows * k;
                        }
                    }
                }
            }
        }
    }
    println!("{launches} quantisations, {elements} elements, with guards: every byte equal");
}

/// Breaks if a code is lost, moved or written outside when codes are transposed or repacked.
#[test]
#[ignore = "needs Hopper"]
fn codes_are_transposed_and_repacked() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().default_stream();
    let mut rng = StdRng::seed_from_u64(8);
    for round in 0..120 {
        let (rows, k) = (rng.random_range(1..500usize), rng.random_range(1..1500usize));
        let transpose = round % 2 == 0;
        let plan = if transpose {
            RelayoutPlan::transpose(&gpu, &compiler, rows, k).unwrap()
        } else {
            RelayoutPlan::repack(&gpu, &compiler, rows, k).unwrap()
        };
        let (height, width) = if transpose { (k, rows) } else { (rows, k) };
        let aligned = round % 4 < 2;
        let stride = (width + rng.random_range(0..40)).next_multiple_of(if aligned { 16 } else { 1 });
        let mut from = Buffer::new(height, stride, 1, if aligned { 0 } else { rng.random_range(0..16) });
        let mut to = Buffer::new(rows, (k + rng.random_range(0..40)).next_multiple_of(16), 1, 0);
        let device_to = to.upload(&stream);
        for (i, j) in ndarray::indices((rows, k)) {
            let code: u8 = rng.random();
            if transpose {
                from.put(j, i, &[code]);
            } else {
                from.put(i, j, &[code]);
            }
            to.put(i, j, &[code]);
        }
        let device_from = from.upload(&stream);
        // SAFETY: all of it was allocated above with these shapes, on this stream.
        unsafe { plan.launch(&stream, from.matrix(&device_from, &stream), to.matrix(&device_to, &stream)).unwrap() };
        to.assert_is(&device_to, &stream, &plan.step().to_string());
        from.assert_is(&device_from, &stream, "input");
    }
    println!("120 transposed or repacked, with guards: every byte equal");
}

/// Breaks if an index overflows 32 bits: matrices of more than 2^31 elements, whose last rows alone
/// are not zero.
#[test]
#[ignore = "needs Hopper"]
fn more_than_2_to_the_31_elements() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().default_stream();
    let (rows, k, last) = (70_000usize, 32_768usize, 3usize);
    let mut rng = StdRng::seed_from_u64(9);
    let quantizer = Quantizer::new(Recipe::DeepGemm);
    for layout in [OperandLayout::KMajor, OperandLayout::MnMajor] {
        // The other way round where it is transposed, so that the end of the input is what is far.
        let (rows, k) = if layout == OperandLayout::KMajor { (rows, k) } else { (k, rows) };
        let q = Quantization { rows, k, input: OutputType::Bf16, layout, quantizer };
        let plan = QuantizePlan::new(&gpu, &compiler, &q).unwrap();
        let end: Vec<u16> = (0..last * 32_768).map(|_| bf16::from_f32(value(0, &mut rng)).to_bits()).collect();
        let mut input = stream.alloc_zeros::<u16>(rows * k).unwrap();
        let from = input.len() - end.len();
        stream.memcpy_htod(&end, &mut input.slice_mut(from..)).unwrap();
        let stride = k.next_multiple_of(16);
        let codes = stream.alloc_zeros::<u8>(rows * stride).unwrap();
        let scales = stream.alloc_zeros::<f32>(k.div_ceil(128) * rows).unwrap();
        let operands = QuantizeOperands {
            input: DeviceMatrix {
                pointer: input.device_ptr(&stream).0,
                stride: if layout == OperandLayout::KMajor { k } else { rows },
            },
            codes: DeviceMatrix { pointer: codes.device_ptr(&stream).0, stride },
            scales: DeviceMatrix { pointer: scales.device_ptr(&stream).0, stride: rows },
        };
        // SAFETY: all of it was allocated above with these shapes, on this stream.
        unsafe { plan.launch(&stream, &operands).unwrap() };
        // The block of the end, with the zeros before it.
        let (first_row, first_k) = if layout == OperandLayout::KMajor { (rows - last, 0) } else { (0, k / 128 * 128) };
        let data = Array2::from_shape_fn((rows - first_row, k - first_k), |(i, j)| {
            let (i, j) = (i + first_row, j + first_k);
            let at = if layout == OperandLayout::KMajor { i * k + j } else { j * rows + i };
            bf16::from_bits(if at < from { 0 } else { end[at - from] }).to_f32()
        });
        let (expected_codes, expected_scales) = expected(&data, &q);
        let (codes, scales) = (stream.clone_dtoh(&codes).unwrap(), stream.clone_dtoh(&scales).unwrap());
        for ((i, j), code) in expected_codes.indexed_iter() {
            assert_eq!(codes[(i + first_row) * stride + j + first_k], *code, "{} [{i}, {j}]", plan.step());
        }
        for ((i, j), scale) in expected_scales.indexed_iter() {
            assert_eq!(scales[(j + first_k / 128) * rows + i + first_row], *scale, "{} [{i}, {j}]", plan.step());
        }
        println!("{}", plan.step());
    }
}

/// Breaks if what is quantised on the GPU, transposed B among it, is not what the GEMM reads, or a
/// slice that is too short or of another type is launched.
#[test]
#[ignore = "needs Hopper"]
fn slices_into_a_gemm() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(10);
    let (m, n, k) = (130usize, 200usize, 400usize);
    let a = Array2::from_shape_simple_fn((m, k), || value(0, &mut rng));
    let b = Array2::from_shape_simple_fn((k, n), || value(0, &mut rng));
    let quantizer = Quantizer::new(Recipe::DeepGemm);
    let squares = quantizer.with_layout(ScaleLayout::Block128x128);
    let of = |rows, layout, quantizer| Quantization { rows, k, input: OutputType::F32, layout, quantizer };
    let plan_a = QuantizePlan::new(&gpu, &compiler, &of(m, OperandLayout::KMajor, quantizer)).unwrap();
    let plan_b = QuantizePlan::new(&gpu, &compiler, &of(n, OperandLayout::MnMajor, squares)).unwrap();
    let x = stream.clone_htod(a.as_slice().unwrap()).unwrap();
    let y = stream.clone_htod(b.as_slice().unwrap()).unwrap();
    let (mut codes_a, mut codes_b) =
        (stream.alloc_zeros::<u8>(m * k).unwrap(), stream.alloc_zeros::<u8>(n * k).unwrap());
    let mut scales_a = stream.alloc_zeros::<f32>(4 * 132).unwrap();
    let mut scales_b = stream.alloc_zeros::<f32>(2 * 4).unwrap();
    let (x, y) = (Strided::new(&x, k), Strided::new(&y, n));
    let scales = StridedMut::new(&mut scales_a, 136);
    let short = plan_a.quantize(&stream, &x, StridedMut::new(&mut codes_a, k), scales);
    assert!(matches!(short, Err(HopperError::Length { argument: "scales", found: 528, needed: 538 })), "{short:?}");
    plan_a.quantize(&stream, &x, StridedMut::new(&mut codes_a, k), StridedMut::new(&mut scales_a, 132)).unwrap();
    plan_b.quantize(&stream, &y, StridedMut::new(&mut codes_b, k), StridedMut::new(&mut scales_b, 4)).unwrap();
    let problem = format!("{m}x{n}x{k} a=e4m3:1x128 b=e4m3:128x128 d=f32").parse().unwrap();
    let plan = Plan::new(&gpu, &compiler, &problem).unwrap();
    let mut d = stream.alloc_zeros::<f32>(m * n).unwrap();
    let inputs = Inputs {
        a: Strided::new(&codes_a, k),
        scale_a: Strided::new(&scales_a, 132),
        b: Strided::new(&codes_b, k),
        scale_b: Strided::new(&scales_b, 4),
    };
    plan.gemm(&stream, &inputs, StridedMut::new(&mut d, n)).unwrap();
    let found = Matrix::F32(Array2::from_shape_vec((m, n), stream.clone_dtoh(&d).unwrap()).unwrap());
    let (a, b) = (quantizer.quantize(a.view()).unwrap(), squares.quantize(b.t()).unwrap());
    let twin = Gemm::new(a.view(), b.view()).output(OutputType::F32).policy(problem.policy).run().unwrap();
    assert!(found.view().bits_equal(&twin.view()), "{problem}: GPU and twin differ");
}
