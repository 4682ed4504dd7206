//! Operands as the tensor core sees them: sign, significand and an exponent that is never
//! normalised.

use fp8gemm_problem::OperandType;

/// Element formats that tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputFormat {
    /// OCP E4M3 (no infinity).
    E4m3,
    /// OCP E5M2.
    E5m2,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// f32 words whose low 13 bits are ignored. A NaN that lives only in those bits is therefore
    /// read as infinity, as in MMA-Sim; nobody has published a measurement.
    Tf32,
}

impl From<OperandType> for InputFormat {
    fn from(ty: OperandType) -> Self {
        match ty {
            OperandType::E4m3 => Self::E4m3,
            OperandType::E5m2 => Self::E5m2,
        }
    }
}

/// One decoded operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// `(-1)^negative * significand * 2^(exponent - fraction_bits)`.
    Finite {
        /// The sign bit, also of zero.
        negative: bool,
        /// Integer significand, hidden bit included; below `2^(fraction_bits + 1)`.
        significand: u32,
        /// Exponent of the hidden bit's place, at least the format's smallest.
        exponent: i16,
        /// Fraction bits of the significand.
        fraction_bits: u16,
    },
    /// An infinity.
    Infinite {
        /// Its sign.
        negative: bool,
    },
    /// Any NaN: payload and sign are lost.
    Nan,
}

impl Operand {
    /// +0, the padding of short groups. Its exponent is the lowest there is, so it is neutral even
    /// in a core where zero products take part in the maximum.
    pub const ZERO: Self = Self::Finite { negative: false, significand: 0, exponent: i16::MIN / 4, fraction_bits: 0 };
}

impl InputFormat {
    /// Exponent bits and stored fraction bits.
    const fn shape(self) -> (u32, u32) {
        match self {
            Self::E4m3 => (4, 3),
            Self::E5m2 => (5, 2),
            Self::F16 => (5, 10),
            Self::Bf16 => (8, 7),
            Self::Tf32 => (8, 10),
        }
    }

    /// Decodes the bits of one element: 8 bits for FP8, 16 for f16 and bf16, the whole f32 word
    /// for tf32. Higher bits are ignored.
    ///
    /// ```
    /// use fp8gemm_sim::tensor_core::{InputFormat, Operand};
    /// // The smallest E4M3 subnormal, 2^-9, keeps the exponent -6.
    /// let want = Operand::Finite { negative: false, significand: 1, exponent: -6, fraction_bits: 3 };
    /// assert_eq!(InputFormat::E4m3.operand(0x01), want);
    /// ```
    pub const fn operand(self, bits: u32) -> Operand {
        let bits = if matches!(self, Self::Tf32) { bits >> 13 } else { bits };
        let (exponent_bits, fraction_bits) = self.shape();
        let fraction = bits & ((1 << fraction_bits) - 1);
        let top = (1 << exponent_bits) - 1;
        let biased = (bits >> fraction_bits) & top;
        let negative = (bits >> (exponent_bits + fraction_bits)) & 1 == 1;
        if biased == top {
            match self {
                // E4M3 spends only the code 7F (and FF) on NaN.
                Self::E4m3 if fraction != 7 => {}
                Self::E4m3 => return Operand::Nan,
                _ if fraction != 0 => return Operand::Nan,
                _ => return Operand::Infinite { negative },
            }
        }
        let bias = (1i32 << (exponent_bits - 1)) - 1;
        let (exponent, hidden) = if biased == 0 { (1 - bias, 0) } else { (biased as i32 - bias, 1 << fraction_bits) };
        Operand::Finite {
            negative,
            significand: hidden | fraction,
            exponent: exponent as i16,
            fraction_bits: fraction_bits as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_formats::Fp8Format;
    use half::{bf16, f16};

    fn value(operand: Operand) -> f64 {
        match operand {
            Operand::Finite { negative, significand, exponent, fraction_bits } => {
                let magnitude = f64::from(significand) * 2f64.powi(i32::from(exponent) - i32::from(fraction_bits));
                if negative { -magnitude } else { magnitude }
            }
            Operand::Infinite { negative: false } => f64::INFINITY,
            Operand::Infinite { negative: true } => f64::NEG_INFINITY,
            Operand::Nan => f64::NAN,
        }
    }

    /// Breaks if the tensor core reads an element as another number than the formats crate, `half`
    /// or the CPU do.
    #[test]
    fn operands_mean_the_formats_values() {
        let same = |operand: Operand, want: f64| {
            let got = value(operand);
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{got} {want}");
        };
        for code in 0..=255u8 {
            same(InputFormat::E4m3.operand(code.into()), Fp8Format::E4m3.decode(code).into());
            same(InputFormat::E5m2.operand(code.into()), Fp8Format::E5m2.decode(code).into());
        }
        for bits in 0..=u16::MAX {
            same(InputFormat::F16.operand(bits.into()), f16::from_bits(bits).to_f64());
            same(InputFormat::Bf16.operand(bits.into()), bf16::from_bits(bits).to_f64());
            let word = u32::from(bits) << 16 | 0x6000;
            same(InputFormat::Tf32.operand(word | 0x1FFF), f32::from_bits(word).into());
        }
        assert_eq!(InputFormat::Tf32.operand(0x7F80_1FFF), Operand::Infinite { negative: false });
    }
}
