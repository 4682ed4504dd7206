//! Which problems are tried: families (types, scales, policy, output, epilogue) that cover every
//! pair of choices, and classes of shapes.

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};
use rand::{Rng, rngs::StdRng};

/// All type mixes with all ways of applying scales with all types of D: `family` of each number
/// below. C goes through its choices too.
pub(crate) const FAMILIES: usize = 48;

/// A family, with sizes of 1. The number decides what is covered, `rng` the rest.
pub(crate) fn family(number: usize, rng: &mut StdRng) -> Problem {
    use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
    const E4M3: OperandType = OperandType::E4m3;
    const E5M2: OperandType = OperandType::E5m2;
    let mix = [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2)][number % 4];
    let way = number / 4 % 4;
    // Any three families in a row have all of them: a run may be of some families alone.
    let d = OutputType::ALL[number % 3];
    let c = (number / 3 + way) % 4;
    let c = OutputType::ALL.get(c).copied();
    let pairs: &[(ScaleLayout, ScaleLayout)] = match way {
        // The kernel's 1D2D: the first is the usual one, in the others scales are spread.
        0 => &[(Block1x128, Block128x128), (Block1x128, Tensor), (Row, Block128x128), (Block128x128, Block128x128)],
        1 => &[(Block1x128, Block1x128), (Block128x128, Block1x128), (Block1x128, Row), (Tensor, Block1x128)],
        _ => &[(Row, Row), (Tensor, Tensor), (Row, Tensor), (Tensor, Row)],
    };
    let (scales_a, scales_b) = if rng.random() { pairs[0] } else { pairs[rng.random_range(0..pairs.len())] };
    let alpha = if rng.random() { 1.0 } else { [-0.75, 3.1e-5, 1e30, 0.5, 3.0, 0.0][rng.random_range(0..6)] };
    let beta = c.map_or(0.0, |_| [1.0, 1.0, 1.5, -0.3, 0.0][rng.random_range(0..5)]);
    Problem {
        m: 1,
        n: 1,
        k: 1,
        a: OperandSpec { ty: mix.0, scales: scales_a },
        b: OperandSpec { ty: mix.1, scales: scales_b },
        c,
        d,
        policy: if way == 3 { Policy::Chain } else { Policy::PROMOTE_128 },
        epilogue: Epilogue { alpha, beta },
    }
}

/// Shapes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A few rows, as in decoding.
    Few,
    /// A few tiles with tails.
    Tails,
    /// More tiles than there are SMs, little K.
    Many,
    /// Long K.
    Deep,
    /// More tiles than there are SMs, and enough of K to cut: for stream-K.
    Runs,
}

impl Class {
    pub(crate) const ALL: [Self; 5] = [Self::Few, Self::Tails, Self::Many, Self::Deep, Self::Runs];

    /// The largest shape: M, N, K. Its rows of D are for TMA, and so are its candidates.
    fn most(self) -> (usize, usize, usize) {
        match self {
            Self::Few => (16, 704, 1536),
            Self::Tails => (520, 528, 1536),
            Self::Many => (2600, 1712, 260),
            Self::Deep => (150, 304, 9000),
            Self::Runs => (3000, 3008, 2200),
        }
    }

    /// The smallest sizes: M, N, K.
    fn least(self) -> (usize, usize, usize) {
        if self == Self::Runs { (2200, 2200, 1500) } else { (1, 1, 1) }
    }

    /// The family at the class's largest shape; its candidates compute every shape of the class.
    pub(crate) fn largest(self, family: Problem) -> Problem {
        let (m, n, k) = self.most();
        Problem { m, n, k, ..family }
    }

    /// A shape of the class: round numbers, numbers next to round ones, any number. Half of the time
    /// rows of D end at multiples of 16 bytes, so that TMA can store them.
    pub(crate) fn problem(self, family: Problem, rng: &mut StdRng) -> Problem {
        let mut size = |least: usize, most: usize| {
            let any = rng.random_range(least..=most);
            let near = match rng.random_range(0..6) {
                0 => any.next_multiple_of(128),
                1 => any.next_multiple_of(16),
                2 => any.next_multiple_of(128) + 1,
                3 => any.next_multiple_of(64) - 1,
                _ => any,
            };
            if near > most { any } else { near }
        };
        let ((m, n, k), least) = (self.most(), self.least());
        let problem = Problem { m: size(least.0, m), n: size(least.1, n), k: size(least.2, k), ..family };
        let whole = problem.n.next_multiple_of(16 / family.d.size());
        Problem { n: if whole <= n && rng.random() { whole } else { problem.n }, ..problem }
    }
}
