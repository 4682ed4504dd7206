//! Text: policies, problems, layouts, recipes and types, from arbitrary text and from values.
//!
//! Checks that
//! - parsing never panics, and an error has a message;
//! - what parses prints as text that parses to the same value (for all but problems, which allow
//!   any order and spacing, the very same text);
//! - every value that passes its own check prints and parses, and `Problem::check` never panics.
#![no_main]

use core::fmt::{Debug, Display};
use core::str::FromStr;

use arbitrary::{Arbitrary, Result, Unstructured};
use fp8gemm_formats::Fp8Format;
use fp8gemm_formats::quantize::{AmaxAlgorithm, Quantizer, Recipe};
use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ProblemError, ScaleLayout};
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Case {
    problem: Problem,
    quantizer: Quantizer,
    /// A character to put into the text of a value, and where.
    edit: (char, usize),
    text: String,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let operand = |u: &mut Unstructured<'a>| {
            Ok(OperandSpec { ty: *u.choose(&OperandType::ALL)?, scales: *u.choose(&ScaleLayout::ALL)? })
        };
        let problem = Problem {
            m: u.arbitrary()?,
            n: u.arbitrary()?,
            k: u.arbitrary()?,
            a: operand(u)?,
            b: operand(u)?,
            c: if u.arbitrary()? { Some(*u.choose(&OutputType::ALL)?) } else { None },
            d: *u.choose(&OutputType::ALL)?,
            policy: match u.int_in_range(0..=5)? {
                0 => Policy::Chain,
                1 => Policy::Cutlass128,
                2 => Policy::Promote { every: u.arbitrary()? },
                3 => Policy::Promote { every: 32 * u.int_in_range(0..=8)? },
                4 => Policy::Split { parts: u.int_in_range(0..=4)? },
                _ => Policy::Split { parts: u.arbitrary()? },
            },
            epilogue: Epilogue { alpha: u.arbitrary()?, beta: u.arbitrary()? },
        };
        let recipe = *u.choose(&Recipe::ALL)?;
        let quantizer = Quantizer::new(recipe).with_layout(*u.choose(recipe.layouts())?).with_ty(problem.a.ty);
        let character =
            if u.arbitrary()? { *u.choose(&['0', '1', '+', '-', ' ', 'x', ':', '='])? } else { u.arbitrary()? };
        let edit = (character, u.int_in_range(0..=100)?);
        Ok(Self { problem, quantizer, edit, text: String::from_utf8_lossy(u.take_rest_bytes()?).into_owned() })
    }
}

trait TakeRest<'a> {
    fn take_rest_bytes(&mut self) -> Result<&'a [u8]>;
}

impl<'a> TakeRest<'a> for Unstructured<'a> {
    fn take_rest_bytes(&mut self) -> Result<&'a [u8]> {
        self.bytes(self.len())
    }
}

/// Parses; what parses must print as it was written.
fn exact<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string(), text),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn stable<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(value: &T) {
    let text = value.to_string();
    assert_eq!(text.parse::<T>().as_ref().expect("printed text parses"), value, "{text:?}");
}

/// As [`stable`], comparing texts: a NaN alpha is unequal to itself, and beta -0 prints like 0.
fn stable_problem(problem: &Problem) {
    let text = problem.to_string();
    let again: Problem = text.parse().expect("printed text parses");
    assert_eq!(again.to_string(), text);
    assert_eq!((again.m, again.n, again.k), (problem.m, problem.n, problem.k));
    assert_eq!((again.a, again.b, again.c, again.d), (problem.a, problem.b, problem.c, problem.d));
    assert_eq!(again.policy, problem.policy);
    assert!(again.epilogue == problem.epilogue || text.contains("NaN"), "{text}");
    assert_eq!(again.check().is_ok(), problem.check().is_ok());
}

/// Everything that has a text, from one text.
fn parse_all(text: &str) {
    exact::<Policy>(text);
    exact::<ScaleLayout>(text);
    exact::<OperandType>(text);
    exact::<OutputType>(text);
    exact::<OperandSpec>(text);
    exact::<Recipe>(text);
    exact::<Fp8Format>(text);
    exact::<AmaxAlgorithm>(text);
    match text.parse::<Quantizer>() {
        Ok(quantizer) => {
            assert!(quantizer.to_string().starts_with(text));
            stable(&quantizer);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<Problem>() {
        Ok(problem) => stable_problem(&problem),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|case: Case| {
    case.text.split('\n').take(4).for_each(parse_all);
    stable(&case.quantizer);
    stable(&case.problem.a);
    let (character, place) = case.edit;
    for mut text in [case.problem.policy.to_string(), case.quantizer.to_string(), case.problem.to_string()] {
        // All texts are ASCII, so every place is between characters.
        text.insert(place % (text.len() + 1), character);
        parse_all(&text);
    }
    let problem = &case.problem;
    let parameter_fault = matches!(problem.check(), Err(ProblemError::PolicyParameter { .. }));
    match problem.policy.to_string().parse::<Policy>() {
        Ok(policy) => {
            assert_eq!(policy, problem.policy);
            assert!(!parameter_fault);
            stable_problem(problem);
        }
        Err(error) => {
            assert_eq!(
                problem.policy.check(ScaleLayout::Tensor, ScaleLayout::Tensor),
                Err(error),
                "parsing refuses more policies than checking"
            );
            problem.to_string().parse::<Problem>().expect_err("its policy does not parse");
        }
    }
});
