//! Cases from a seed and a number: proptest's strategies for the problem, its random numbers for the
//! data.

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::{Case, DataRegime, DifftestError, Only, Origin, ScaleRegime, ShapeRegime, data};

/// What problems are made of.
#[derive(Clone, Debug)]
pub struct Menu {
    /// Policies; those that are illegal for the scales at hand are not taken.
    pub policies: Vec<Policy>,
    /// Scale layouts of either side.
    pub layouts: Vec<ScaleLayout>,
    /// Largest M and N of shapes at edges.
    pub edge: usize,
    /// Most multiply-adds of a case.
    pub macs: u64,
    /// Whether M, N or K may be 0 (regime `shape-empty`): D is then empty, or what the epilogue makes of
    /// sums that are +0. Many kernels leave that to their caller.
    pub empty: bool,
    /// Which problems have a kernel, where scales alone do not decide that: a policy is taken only for those that have
    /// one with it. Sizes of 0 are asked about as 1.
    pub computed: Option<fn(&Problem) -> bool>,
}

impl Menu {
    /// All policies of the twin, in sizes that the specification computes in milliseconds.
    pub fn twin() -> Self {
        use ScaleLayout::{Block1x32, Block1x128, Block128x128, Row, Tensor};
        let mut policies = Policy::COMMON.to_vec();
        policies.extend([Policy::Promote { every: 96 }, Policy::Promote { every: 256 }, Policy::Split { parts: 3 }]);
        let layouts = vec![Tensor, Row, Block1x128, Block128x128, Block1x32];
        Self { policies, layouts, edge: 400, macs: 3 << 20, empty: true, computed: None }
    }

    /// The layouts of A and B that are legal with some policy.
    pub fn pairs(&self) -> Vec<(ScaleLayout, ScaleLayout)> {
        let pairs = self.layouts.iter().flat_map(|a| self.layouts.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| self.policies.iter().any(|policy| policy.check(*a, *b).is_ok())).collect()
    }

    /// What most kernels compute: `promote128` and `chain` with tensor, row, 1x128 and 128x128 scales; M, N and K
    /// from 1.
    pub fn kernels() -> Self {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        Self {
            policies: vec![Policy::PROMOTE_128, Policy::Chain],
            layouts: vec![Tensor, Row, Block1x128, Block128x128],
            empty: false,
            ..Self::twin()
        }
    }

    /// What the kernels of `fp8gemm-hopper` compute: the same, and with the feature `hopper` the splits of K for which
    /// there is a kernel; in sizes that keep a GPU busy, up to 2^30 multiply-adds, and with M, N or K of 0, which
    /// `gemm_on_gpu` takes.
    pub fn gpu() -> Self {
        let menu = Self { edge: 2600, macs: 1 << 30, empty: true, ..Self::kernels() };
        #[cfg(feature = "hopper")]
        let menu = {
            let splits = [2, 4, 8].map(|parts| Policy::Split { parts });
            Self {
                policies: [&menu.policies[..], &splits].concat(),
                computed: Some(crate::subject::has_kernel),
                ..menu
            }
        };
        menu
    }

    /// The policies for a problem, of which its own is not looked at.
    fn legal(&self, problem: &Problem) -> Vec<Policy> {
        let with = |policy| Problem { policy, ..*problem };
        let policies = self.policies.iter().copied();
        let mut legal: Vec<Policy> =
            policies.filter(|policy| policy.check(problem.a.scales, problem.b.scales).is_ok()).collect();
        if let Some(computed) = self.computed {
            let at_least_1 = |p: Problem| Problem { m: p.m.max(1), n: p.n.max(1), k: p.k.max(1), ..p };
            let found: Vec<_> = legal.iter().copied().filter(|policy| computed(&at_least_1(with(*policy)))).collect();
            // With none the one who is tested says why.
            if !found.is_empty() {
                legal = found;
            }
        }
        legal
    }
}

/// Makes cases: the same case for the same seed, menu, regimes and number, whatever came before.
///
/// ```
/// use fp8gemm_difftest::{Generator, Menu, Only};
///
/// let generator = Generator::new(7, Menu::twin(), Only::parse(["cancellation"])?);
/// let case = generator.case(12)?;
/// assert_eq!(case.problem, generator.case(12)?.problem);
/// case.problem.check()?;
/// # Ok::<(), fp8gemm_difftest::DifftestError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    menu: Menu,
    only: Only,
}

impl Generator {
    /// A generator of these regimes.
    pub fn new(seed: u64, menu: Menu, only: Only) -> Self {
        Self { seed, menu, only }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What is generated.
    pub(crate) fn only(&self) -> &Only {
        &self.only
    }

    /// Kinds of shapes that are generated.
    pub(crate) fn shapes(&self) -> Vec<ShapeRegime> {
        self.only.shapes(self.menu.empty)
    }

    /// The case of that number.
    ///
    /// # Errors
    /// [`DifftestError::Generate`] if the menu leaves nothing to choose from, or if empty shapes are asked
    /// for by name and the menu has none.
    pub fn case(&self, index: u64) -> Result<Case, DifftestError> {
        let failed = |reason: String| DifftestError::Generate { seed: self.seed, index, reason };
        if self.menu.pairs().is_empty() {
            return Err(failed("no policy of the menu is legal with its scale layouts".to_owned()));
        }
        if !self.menu.empty && self.only.shapes.contains(&ShapeRegime::Empty) {
            return Err(failed(format!("{}: what is tested takes M, N and K from 1", ShapeRegime::Empty)));
        }
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, self.rng(index));
        let (seed, only, menu) = (self.seed, self.only.clone(), self.menu.clone());
        let cases = draws(only, menu).prop_perturb(move |draw, mut rng| draw.case(seed, index, &mut rng));
        let tree = cases.new_tree(&mut runner).map_err(|reason| failed(reason.message().to_owned()))?;
        tree.current()
    }
}

impl Generator {
    /// Data of these regimes for a given problem; the same for the same seed and number.
    ///
    /// # Errors
    /// [`DifftestError::Format`] where the problem is none that operands can be made for.
    pub fn fill(
        &self,
        problem: &Problem,
        index: u64,
        data: DataRegime,
        scales: ScaleRegime,
    ) -> Result<Case, DifftestError> {
        problem.check()?;
        let draw = Draw { problem: *problem, shape: ShapeRegime::Small, data, scales: [scales; 2] };
        draw.case(self.seed, index, &mut self.rng(index))
    }

    fn rng(&self, index: u64) -> TestRng {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&index.to_le_bytes());
        TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
    }
}

/// A problem and the regimes of its data.
#[derive(Clone, Debug)]
struct Draw {
    problem: Problem,
    shape: ShapeRegime,
    data: DataRegime,
    scales: [ScaleRegime; 2],
}

impl Draw {
    fn case(self, seed: u64, index: u64, rng: &mut TestRng) -> Result<Case, DifftestError> {
        let Self { problem, shape, data, scales } = self;
        let origin = Origin { seed, index, shape, data, scales };
        let [a, b] = data::operands(&problem, data, scales, rng)?;
        let c = problem.c.map(|ty| data::addend(ty, (problem.m, problem.n), rng));
        Ok(Case { problem, a, b, c, origin })
    }
}

/// Everything but the data.
fn draws(only: Only, menu: Menu) -> impl Strategy<Value = Draw> {
    let regimes = (select(only.shapes(menu.empty)), select(only.data()), select(only.scales()), select(only.scales()));
    regimes.prop_flat_map(move |(shape, data, scale_a, scale_b)| {
        let policies = menu.clone();
        let drawn = (shapes(shape, &menu), families(&menu), any::<prop::sample::Index>());
        drawn.prop_map(move |((m, n, k), family, index)| {
            let problem = Problem { m, n, k, ..family };
            // The scales were taken because there is one.
            let policy = *index.get(&policies.legal(&problem));
            Draw { problem: Problem { policy, ..problem }, shape, data, scales: [scale_a, scale_b] }
        })
    })
}

/// Types, scales and epilogue; sizes of 1, and the policy is another's to draw.
fn families(menu: &Menu) -> impl Strategy<Value = Problem> + use<> {
    let pairs = menu.pairs();
    // A third without block scales: only there a chain is legal.
    let mut plain = pairs.clone();
    plain.retain(|(a, b)| a.k_block().or(b.k_block()).is_none());
    let plain = if plain.is_empty() { pairs.clone() } else { plain };
    let layouts = prop_oneof![2 => select(pairs), 1 => select(plain)];
    let types = || select(&OperandType::ALL[..]);
    let operands = (types(), types(), layouts).prop_map(|(a, b, (scales_a, scales_b))| {
        (OperandSpec { ty: a, scales: scales_a }, OperandSpec { ty: b, scales: scales_b })
    });
    let outputs = || select(&OutputType::ALL[..]);
    let c = prop_oneof![Just(None), outputs().prop_map(Some)];
    let alphas = prop_oneof![3 => Just(1.0f32), 2 => select(&[-0.75f32, 3.1e-5, 1e30, 0.5, 3.0, 0.0, -1.0][..])];
    // Beta 0 with a C: it must not be read.
    let betas = prop_oneof![3 => Just(1.0f32), 2 => select(&[1.5f32, -0.3, -1.0, 1e-30][..]), 1 => Just(0.0f32)];
    (operands, outputs(), c, alphas, betas).prop_map(|((a, b), d, c, alpha, beta)| {
        let beta = if c.is_some() { beta } else { 0.0 };
        let policy = Policy::default();
        Problem { m: 1, n: 1, k: 1, a, b, c, d, policy, epilogue: Epilogue { alpha, beta } }
    })
}

/// Where rows of A and B end well for TMA, a step or a block.
const K_UNITS: &[usize] = &[16, 32, 64, 128];

/// M, N and K of a regime, within the menu's limits.
fn shapes(regime: ShapeRegime, menu: &Menu) -> BoxedStrategy<(usize, usize, usize)> {
    let (edge, macs) = (menu.edge, menu.macs);
    let any = |most: usize| 1..=most;
    let sizes = match regime {
        ShapeRegime::Small => (any(40), any(40), any(40)).boxed(),
        ShapeRegime::Ones => (any(130), any(130), any(300), 0..7u8)
            .prop_map(|(m, n, k, which)| match which {
                0 => (1, n, k),
                1 => (m, 1, k),
                2 => (m, n, 1),
                3 => (1, 1, k),
                4 => (1, n, 1),
                5 => (m, 1, 1),
                _ => (1, 1, 1),
            })
            .boxed(),
        ShapeRegime::TileEdge => {
            (near(&[64, 128, 256], edge), near(&[8, 16, 64, 96, 128, 160, 192, 256], edge), near(K_UNITS, 256)).boxed()
        }
        ShapeRegime::ClusterEdge => prop_oneof![
            (near(&[128, 256, 512], edge), any(40), near(K_UNITS, 256)),
            (any(40), near(&[128, 192, 256, 320, 384], edge), near(K_UNITS, 256)),
        ]
        .boxed(),
        ShapeRegime::ScaleEdge => (any(40), near(&[128], edge), near(&[128], 640)).boxed(),
        ShapeRegime::StepEdge => (any(40), any(40), near(&[32], 320)).boxed(),
        ShapeRegime::Tails => {
            let odd = |most: usize| (0..most / 2).prop_map(|half| 2 * half + 1);
            (odd(150), odd(150), odd(400)).boxed()
        }
        ShapeRegime::LongK => (any(12), any(12), 2048..=12_000usize).boxed(),
        ShapeRegime::ManyTiles => {
            let large = || edge - edge / 8..=edge;
            (large(), large(), near(K_UNITS, 128)).boxed()
        }
        ShapeRegime::Empty => (any(130), any(130), any(300), 0..8u8)
            .prop_map(|(m, n, k, which)| match which {
                0 => (0, n, k),
                1 => (m, 0, k),
                2 => (0, n, 0),
                3 => (0, 0, 0),
                // Where D has elements and no product is in them.
                _ => (m, n, 0),
            })
            .boxed(),
    };
    sizes.prop_map(move |sizes| within(sizes, macs)).boxed()
}

/// Next to a multiple of a unit: one below, at it, one above.
fn near(units: &'static [usize], most: usize) -> impl Strategy<Value = usize> {
    (select(units), any::<prop::sample::Index>(), -1isize..=1).prop_map(move |(unit, times, aside)| {
        let times = 1 + times.index((most / unit).max(1));
        (unit * times).saturating_add_signed(aside).max(1)
    })
}

/// Takes multiples of 128 from the largest size until the product is small enough: what lies next to
/// an edge still does.
fn within((mut m, mut n, mut k): (usize, usize, usize), macs: u64) -> (usize, usize, usize) {
    while (m * n * k) as u64 > macs {
        let largest = if k >= m && k >= n {
            &mut k
        } else if n >= m {
            &mut n
        } else {
            &mut m
        };
        if *largest <= 128 {
            break;
        }
        *largest -= 128;
    }
    (m, n, k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Breaks if an illegal problem is generated, one that is larger than the menu allows, or data
    /// that is not the problem's.
    #[test]
    fn cases_are_legal() {
        for menu in [Menu::twin(), Menu::kernels()] {
            let generator = Generator::new(1, menu.clone(), Only::default());
            for index in 0..300 {
                let case = generator.case(index).unwrap();
                case.problem.check().unwrap();
                case.gemm().check().unwrap();
                assert_eq!(case.gemm().problem(), case.problem);
                assert!(case.problem.macs() <= u128::from(menu.macs), "{case}");
                assert!(menu.layouts.contains(&case.problem.a.scales), "{case}");
                assert!(menu.policies.contains(&case.problem.policy), "{case}");
            }
        }
    }

    /// Breaks if a split of K is taken where no kernel has it, never, or only where all but one part is empty; or if a
    /// problem is taken that no kernel computes.
    #[test]
    #[cfg(feature = "hopper")]
    fn splits_are_where_kernels_have_them() {
        let generator = Generator::new(1, Menu::gpu(), Only::default());
        let (mut splits, mut full) = (BTreeSet::new(), BTreeSet::new());
        for index in 0..400 {
            let p = generator.case(index).unwrap().problem;
            assert!(p.macs() == 0 || crate::subject::has_kernel(&p), "{p}");
            if let Policy::Split { parts } = p.policy {
                splits.insert(parts);
                full.extend((p.k > 128 * parts as usize).then_some(parts));
            }
        }
        assert_eq!((splits, full), (BTreeSet::from([2, 4, 8]), BTreeSet::from([2, 4, 8])));
    }

    /// Breaks if a size of 0 comes from a menu without it, is taken for another when asked for by name, or
    /// if one of M, N and K never is 0 where it may be.
    #[test]
    fn empty_shapes_are_where_they_may_be() {
        let asked = Only::parse(["shape-empty"]).unwrap();
        let error = Generator::new(1, Menu::kernels(), asked.clone()).case(0).unwrap_err().to_string();
        assert!(error.contains("shape-empty") && error.contains("from 1"), "{error}");
        let size = |p: &Problem| p.m * p.n * p.k;
        let kernels = Generator::new(1, Menu::kernels(), Only::default());
        assert!((0..200).all(|index| size(&kernels.case(index).unwrap().problem) > 0));
        for menu in [Menu::twin(), Menu::gpu()] {
            let generator = Generator::new(1, menu, asked.clone());
            let problems: Vec<Problem> = (0..60).map(|index| generator.case(index).unwrap().problem).collect();
            assert!(problems.iter().all(|p| size(p) == 0));
            assert!(problems.iter().any(|p| p.m == 0 && p.n * p.k > 0));
            assert!(problems.iter().any(|p| p.n == 0 && p.m * p.k > 0));
            assert!(problems.iter().any(|p| p.k == 0 && p.m * p.n > 0 && p.epilogue.reads_c()));
        }
    }

    /// Breaks if a menu from which nothing can be made is a panic, or is filled with something else.
    #[test]
    fn empty_menus_are_errors() {
        let only_chain = |layouts| Menu { policies: vec![Policy::Chain], layouts, ..Menu::twin() };
        for menu in [only_chain(vec![ScaleLayout::Block1x128]), only_chain(vec![])] {
            let error = Generator::new(1, menu, Only::default()).case(0).unwrap_err();
            assert!(matches!(error, DifftestError::Generate { .. }), "{error}");
        }
    }

    /// Breaks if a case depends on anything but seed and number, or seeds give the same cases.
    #[test]
    fn cases_are_repeatable() {
        let case = |seed, index| Generator::new(seed, Menu::twin(), Only::default()).case(index).unwrap();
        let (x, y) = (case(3, 40), case(3, 40));
        // As text: a NaN scale is not equal to itself.
        assert_eq!(format!("{x:?}"), format!("{y:?}"));
        let problems: BTreeSet<String> = (0..8).map(|seed| case(seed, 0).problem.to_string()).collect();
        assert_eq!(problems.len(), 8);
    }

    /// Breaks if `--only` lets other regimes through.
    #[test]
    fn only_is_only() {
        let only = Only::parse(["sparse", "wide", "shape-ones", "scale-zero"]).unwrap();
        let generator = Generator::new(0, Menu::twin(), only);
        let mut data = BTreeSet::new();
        for index in 0..40 {
            let origin = generator.case(index).unwrap().origin;
            assert_eq!((origin.shape, origin.scales), (ShapeRegime::Ones, [ScaleRegime::Zero; 2]));
            data.insert(origin.data);
        }
        assert_eq!(data, BTreeSet::from([DataRegime::Wide, DataRegime::Sparse]));
    }

    /// Breaks if a limit on the size moves a shape away from its edge, or is not kept.
    #[test]
    fn limits_keep_edges() {
        let (m, n, k) = within((2561, 2559, 9001), 1 << 22);
        assert_eq!((m % 128, n % 128, k % 128), (1, 127, 41));
        assert!((m * n * k) as u64 <= 1 << 22);
    }
}
