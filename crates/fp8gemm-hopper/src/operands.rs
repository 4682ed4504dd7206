//! Pointers and strides of one launch, and the rules that they must keep.

use fp8gemm_jit::Store;
use fp8gemm_problem::{Problem, Side};

use crate::HopperError;
use crate::scales::ScaleForm;

/// A row-major matrix in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMatrix {
    /// Address of the first element (a `CUdeviceptr`).
    pub pointer: u64,
    /// Elements between the starts of neighbouring rows, at least the number of columns. Not looked
    /// at for scales of form [`ScaleForm::One`] and [`ScaleForm::Rows`].
    pub stride: usize,
}

/// Everything that a launch reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// A, `[M, K]` FP8; pointer and stride multiples of 16 bytes.
    pub a: DeviceMatrix,
    /// B, `[N, K]` FP8; pointer and stride multiples of 16 bytes.
    pub b: DeviceMatrix,
    /// Scales of A in the plan's [`ScaleForm`].
    pub scale_a: DeviceMatrix,
    /// Scales of B in the plan's [`ScaleForm`].
    pub scale_b: DeviceMatrix,
    /// C, `[M, N]`: given exactly if beta is not 0. May be D itself. Pointer and stride as for D.
    pub c: Option<DeviceMatrix>,
    /// D, `[M, N]`; only its elements are written. Pointer and stride are multiples of 16 bytes where
    /// the plan's configuration stores by TMA ([`Store::Tma`]), else of the element's size: a plan
    /// made with [`PlanOptions::direct_store`](crate::PlanOptions::direct_store) takes any.
    pub d: DeviceMatrix,
}

impl Operands {
    /// Checks every rule; `forms` and `store` are the plan's.
    pub(crate) fn check(&self, problem: &Problem, forms: [ScaleForm; 2], store: Store) -> Result<(), HopperError> {
        let size = problem.d.size();
        tma("A", self.a, problem.k, 1)?;
        tma("B", self.b, problem.k, 1)?;
        output("D", self.d, problem.n, size, store)?;
        let sides = [(Side::A, self.scale_a, problem.m, forms[0]), (Side::B, self.scale_b, problem.n, forms[1])];
        for (side, scales, rows, form) in sides {
            let argument = if side == Side::A { "scales of A" } else { "scales of B" };
            let (_, columns) = form.shape(rows, problem.k);
            match form {
                ScaleForm::BlocksByRows => tma(argument, scales, columns, 4)?,
                ScaleForm::One | ScaleForm::Rows => aligned(argument, scales.pointer, 4)?,
                ScaleForm::Squares => {
                    aligned(argument, scales.pointer, 4)?;
                    if scales.stride != columns {
                        let rule = format!("128x128 scales are contiguous, a row has {columns}");
                        return Err(HopperError::Stride { argument, value: scales.stride, rule });
                    }
                }
            }
        }
        let expected = problem.c.filter(|_| problem.epilogue.reads_c());
        match (self.c, expected) {
            (None, None) => Ok(()),
            (Some(c), Some(ty)) => {
                output("C", c, problem.n, ty.size(), store)?;
                // C read here while D is written there would be a race.
                if c.pointer == self.d.pointer && (c.stride != self.d.stride || ty != problem.d) {
                    let rule = format!("C in D's place has D's type and its stride of {} elements", self.d.stride);
                    return Err(HopperError::Stride { argument: "C", value: c.stride, rule });
                }
                Ok(())
            }
            (found, _) => Err(HopperError::PresenceOfC { found: found.and(problem.c), expected }),
        }
    }
}

/// What the way of storing asks of C and D.
fn output(
    argument: &'static str,
    matrix: DeviceMatrix,
    columns: usize,
    size: usize,
    store: Store,
) -> Result<(), HopperError> {
    match store {
        Store::Tma => tma(argument, matrix, columns, size),
        Store::Direct => {
            aligned(argument, matrix.pointer, size as u64)?;
            wide(argument, matrix, columns)
        }
    }
}

/// The rules of TMA: 16-byte pointers and strides, strides below 2^40 bytes.
pub(crate) fn tma(
    argument: &'static str,
    matrix: DeviceMatrix,
    columns: usize,
    size: usize,
) -> Result<(), HopperError> {
    aligned(argument, matrix.pointer, 16)?;
    wide(argument, matrix, columns)?;
    let unit = 16 / size;
    let rule = if !matrix.stride.is_multiple_of(unit) {
        format!("TMA needs multiples of {unit} elements (16 bytes); {}", way_out(argument))
    } else if matrix.stride >= (1 << 40) / size {
        "TMA's strides end below 2^40 bytes".to_owned()
    } else {
        return Ok(());
    };
    Err(HopperError::Stride { argument, value: matrix.stride, rule })
}

/// What helps where TMA's rules do not hold.
fn way_out(argument: &str) -> &'static str {
    match argument {
        "C" | "D" => "a plan with PlanOptions::direct_store does without",
        _ => "copy it to such rows, as gemm_on_gpu does",
    }
}

pub(crate) fn aligned(argument: &'static str, pointer: u64, bytes: u64) -> Result<(), HopperError> {
    let rule = if pointer == 0 {
        "is null"
    } else if pointer.is_multiple_of(bytes) {
        return Ok(());
    } else {
        match bytes {
            16 if matches!(argument, "C" | "D") => {
                "is not a multiple of 16 bytes, which TMA needs; a plan with PlanOptions::direct_store does without"
            }
            16 => "is not a multiple of 16 bytes, which TMA needs; copy the matrix, as gemm_on_gpu does",
            4 => "is not a multiple of 4 bytes, the size of an element",
            _ => "is not a multiple of 2 bytes, the size of an element",
        }
    };
    Err(HopperError::Pointer { argument, value: pointer, rule })
}

pub(crate) fn wide(argument: &'static str, matrix: DeviceMatrix, columns: usize) -> Result<(), HopperError> {
    if matrix.stride >= columns {
        return Ok(());
    }
    Err(HopperError::Stride { argument, value: matrix.stride, rule: format!("a row has {columns} elements") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [ScaleForm; 2] = [ScaleForm::BlocksByRows, ScaleForm::Squares];

    fn good() -> (Problem, Operands) {
        let problem = "5x6x130 a=e4m3:1x128 b=e4m3:128x128 d=bf16 c=bf16 beta=1".parse().unwrap();
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let operands = Operands {
            a: at(0x1000, 144),
            b: at(0x2000, 144),
            scale_a: at(0x3000, 8),
            scale_b: at(0x4004, 2),
            c: Some(at(0x5000, 8)),
            d: at(0x6000, 8),
        };
        (problem, operands)
    }

    /// Breaks if a rule of TMA or of the kernel is no longer checked before the launch: the device
    /// would trap, or write elsewhere.
    #[test]
    fn every_rule_has_its_error() {
        let (problem, o) = good();
        assert!(o.check(&problem, FORMS, Store::Tma).is_ok());
        let pointers: [(&str, Operands); 6] = [
            ("A", Operands { a: DeviceMatrix { pointer: 0, ..o.a }, ..o }),
            ("B", Operands { b: DeviceMatrix { pointer: 0x2008, ..o.b }, ..o }),
            ("D", Operands { d: DeviceMatrix { pointer: 0x6002, ..o.d }, ..o }),
            ("scales of A", Operands { scale_a: DeviceMatrix { pointer: 0x3004, ..o.scale_a }, ..o }),
            ("scales of B", Operands { scale_b: DeviceMatrix { pointer: 0x4002, ..o.scale_b }, ..o }),
            ("C", Operands { c: Some(DeviceMatrix { pointer: 0x5002, stride: 8 }), ..o }),
        ];
        for (name, bad) in pointers {
            match bad.check(&problem, FORMS, Store::Tma) {
                Err(HopperError::Pointer { argument, .. }) => assert_eq!(argument, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        let strides: [(&str, Operands); 8] = [
            ("A", Operands { a: DeviceMatrix { stride: 128, ..o.a }, ..o }),
            ("A", Operands { a: DeviceMatrix { stride: 136, ..o.a }, ..o }),
            ("B", Operands { b: DeviceMatrix { stride: 1 << 40, ..o.b }, ..o }),
            ("D", Operands { d: DeviceMatrix { stride: 6, ..o.d }, ..o }),
            ("scales of A", Operands { scale_a: DeviceMatrix { stride: 5, ..o.scale_a }, ..o }),
            ("scales of B", Operands { scale_b: DeviceMatrix { stride: 3, ..o.scale_b }, ..o }),
            ("C", Operands { c: Some(DeviceMatrix { pointer: 0x5000, stride: 4 }), ..o }),
            ("C", Operands { c: Some(DeviceMatrix { pointer: 0x6000, stride: 16 }), ..o }),
        ];
        for (name, bad) in strides {
            match bad.check(&problem, FORMS, Store::Tma) {
                Err(HopperError::Stride { argument, .. }) => assert_eq!(argument, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        // Direct stores take any alignment of whole elements, but not of parts.
        let loose = Operands {
            c: Some(DeviceMatrix { pointer: 0x5002, stride: 7 }),
            d: DeviceMatrix { pointer: 0x6002, stride: 6 },
            ..o
        };
        assert!(loose.check(&problem, FORMS, Store::Direct).is_ok());
        let odd = Operands { d: DeviceMatrix { pointer: 0x6001, stride: 6 }, ..o };
        assert!(matches!(odd.check(&problem, FORMS, Store::Direct), Err(HopperError::Pointer { argument: "D", .. })));
        let none = Operands { c: None, ..o };
        assert!(matches!(none.check(&problem, FORMS, Store::Tma), Err(HopperError::PresenceOfC { .. })));
    }

    /// Breaks if a message stops naming the argument, its value or the rule.
    #[test]
    fn messages_name_argument_value_and_rule() {
        let (problem, o) = good();
        let bad = Operands { a: DeviceMatrix { stride: 136, ..o.a }, ..o };
        let text = bad.check(&problem, FORMS, Store::Tma).unwrap_err().to_string();
        assert_eq!(
            text,
            "A: row stride of 136 elements: TMA needs multiples of 16 elements (16 bytes); copy it to such rows, as gemm_on_gpu does"
        );
    }
}
