//! The kernels that quantise, transpose and repack: their constants and their sources.

use core::fmt::{self, Write};

use fp8gemm_problem::{OperandType, OutputType};

/// Elements that share a scale along K, and along the rows in a square.
const BLOCK: u64 = 128;

/// Rows that a warp of the quantising kernel takes.
const WARP_ROWS: u64 = 8;

/// Rows, and bytes of each, that a warp of the repacking kernel takes.
const REPACK: (u64, u64) = (4, 512);

/// Which elements of a `[rows, K]` operand share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockScales {
    /// 128 of K in one row.
    Block1x128,
    /// 128 of K in 128 rows.
    Block128x128,
}

/// A kernel from bf16, f16 or f32 to FP8 codes `[rows, K]` and block scales, by DeepGEMM's recipe:
///
/// ```text
/// scale = max(amax, 1e-4) * fl(1 / largest)       pow2: rounded up to a power of two
/// code  = cast(x * fl(1 / scale))                 nearest even, saturating, NaN to 7F
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeKernel {
    /// Element type of the input.
    pub input: OutputType,
    /// Element type of the codes.
    pub codes: OperandType,
    /// Which elements share a scale.
    pub scales: BlockScales,
    /// Scales are powers of two.
    pub pow2: bool,
    /// The input is `[K, rows]`, not `[rows, K]`.
    pub transposed: bool,
}

/// One of the kernels that touch each element once. Prints as one word, e.g.
/// `quantize_bf16_e4m3_1x128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementwiseKernel {
    /// Quantises.
    Quantize(QuantizeKernel),
    /// FP8 codes `[K, rows]` to `[rows, K]`.
    TransposeCodes,
    /// FP8 codes `[rows, K]` of any address and stride to rows of multiples of 16 bytes.
    RepackCodes,
}

impl ElementwiseKernel {
    /// Every one of them.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::TransposeCodes, Self::RepackCodes];
        for input in OutputType::ALL {
            for codes in OperandType::ALL {
                for scales in [BlockScales::Block1x128, BlockScales::Block128x128] {
                    for (pow2, transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                        all.push(Self::Quantize(QuantizeKernel { input, codes, scales, pow2, transposed }));
                    }
                }
            }
        }
        all
    }

    /// The kernel's symbol.
    pub const fn symbol(&self) -> &'static str {
        match self {
            Self::Quantize(QuantizeKernel { transposed: false, .. }) => "fp8gemm_quantize",
            Self::Quantize(_) | Self::TransposeCodes => "fp8gemm_transpose",
            Self::RepackCodes => "fp8gemm_repack",
        }
    }

    /// Threads of a CTA.
    pub const fn threads(&self) -> u32 {
        match self {
            Self::Quantize(QuantizeKernel { transposed: true, input: OutputType::F32, .. })
            | Self::Quantize(QuantizeKernel { transposed: false, scales: BlockScales::Block128x128, .. }) => 512,
            _ => 256,
        }
    }

    /// CTAs for codes of this shape, counted in one dimension with K fastest.
    pub fn grid(&self, rows: usize, k: usize) -> u128 {
        let (rows, k) = (rows as u64, k as u64);
        let product = |rows: u64, k: u64| u128::from(rows) * u128::from(k);
        let warps = u128::from(self.threads() / 32);
        match self {
            Self::Quantize(QuantizeKernel { transposed: false, scales: BlockScales::Block1x128, .. }) => {
                product(rows.div_ceil(WARP_ROWS), k.div_ceil(BLOCK)).div_ceil(warps)
            }
            Self::Quantize(_) | Self::TransposeCodes => product(rows.div_ceil(BLOCK), k.div_ceil(BLOCK)),
            Self::RepackCodes => product(rows.div_ceil(REPACK.0), k.div_ceil(REPACK.1)).div_ceil(warps),
        }
    }

    /// The whole translation unit. The same kernel always gives the same bytes, so that they can be
    /// a cache key.
    pub fn source(&self) -> String {
        let mut text = format!("// fp8gemm {self}\n");
        text.push_str(fp8gemm_kernels::ELEMENTWISE);
        text.push_str(&self.constants());
        text.push_str(match self {
            Self::Quantize(QuantizeKernel { transposed: false, .. }) => fp8gemm_kernels::QUANTIZE,
            Self::Quantize(_) | Self::TransposeCodes => fp8gemm_kernels::TRANSPOSE,
            Self::RepackCodes => fp8gemm_kernels::REPACK,
        });
        text
    }

    fn constants(&self) -> String {
        let (input, codes, squares, pow2) = match self {
            Self::Quantize(kernel) => {
                let input = match kernel.input {
                    OutputType::Bf16 => "INPUT_BF16",
                    OutputType::F16 => "INPUT_F16",
                    OutputType::F32 => "INPUT_F32",
                };
                let codes = match kernel.codes {
                    OperandType::E4m3 => "CODES_E4M3",
                    OperandType::E5m2 => "CODES_E5M2",
                };
                (input, codes, kernel.scales == BlockScales::Block128x128, kernel.pow2)
            }
            // Bytes are moved: their type is not looked at.
            Self::TransposeCodes | Self::RepackCodes => ("INPUT_FP8", "CODES_E4M3", false, false),
        };
        let threads = self.threads();
        let values: [(&str, &dyn fmt::Display); 5] = [
            ("u32 INPUT", &input),
            ("u32 CODES", &codes),
            ("bool SQUARES", &squares),
            ("bool POW2", &pow2),
            ("u32 THREADS", &threads),
        ];
        let mut text = String::from("\n// ---- this configuration ----\n\n");
        for (name, value) in values {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "constexpr {name} = {value};");
        }
        text.push_str("\n// ---- the kernel ----\n\n");
        text
    }
}

impl fmt::Display for ElementwiseKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuantizeKernel { input, codes, scales, pow2, transposed } = match self {
            Self::Quantize(kernel) => kernel,
            Self::TransposeCodes => return f.pad("transpose_codes"),
            Self::RepackCodes => return f.pad("repack_codes"),
        };
        let scales = match scales {
            BlockScales::Block1x128 => "1x128",
            BlockScales::Block128x128 => "128x128",
        };
        let pow2 = if *pow2 { "_pow2" } else { "" };
        let transposed = if *transposed { "_transposed" } else { "" };
        f.pad(&format!("quantize_{input}_{codes}_{scales}{pow2}{transposed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Breaks if two kernels share a name or a text, or a text is not the same every time: the
    /// cache would give one for the other, or compile at every start.
    #[test]
    fn names_and_texts_are_unique_and_stable() {
        let all = ElementwiseKernel::all();
        assert_eq!(all.len(), 50);
        let names: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        let texts: BTreeSet<String> = all.iter().map(ElementwiseKernel::source).collect();
        assert_eq!((names.len(), texts.len()), (50, 50));
        assert!(all.iter().all(|kernel| texts.contains(&kernel.source())));
        assert!(!texts.iter().any(|text| text.contains("#include")), "the kernels are header-free");
    }

    /// Breaks if a grid leaves rows or blocks of K without a CTA, or launches CTAs for nothing.
    #[test]
    fn grids_cover_the_matrix() {
        let kernel = |scales, transposed| {
            ElementwiseKernel::Quantize(QuantizeKernel {
                input: OutputType::Bf16,
                codes: OperandType::E4m3,
                scales,
                pow2: false,
                transposed,
            })
        };
        use BlockScales::{Block1x128, Block128x128};
        for (kernel, rows, k, grid) in [
            (kernel(Block1x128, false), 4096, 7168, 4096 / 8 * 56 / 8),
            (kernel(Block1x128, false), 1, 1, 1),
            (kernel(Block1x128, false), 9, 129, 1),
            (kernel(Block1x128, false), 65, 129, 3),
            (kernel(Block1x128, true), 129, 129, 4),
            (kernel(Block128x128, false), 129, 128, 2),
            (kernel(Block128x128, true), 128, 129, 2),
            (ElementwiseKernel::TransposeCodes, 129, 129, 4),
            (ElementwiseKernel::TransposeCodes, 0, 129, 0),
            (ElementwiseKernel::RepackCodes, 4096, 7165, 1024 * 14 / 8),
            (ElementwiseKernel::RepackCodes, 1, 1, 1),
        ] {
            assert_eq!(kernel.grid(rows, k), grid, "{kernel} {rows}x{k}");
        }
    }
}
