//! The studies, each a function and an entry of the registry [`ALL`].
//!
//! A study is one file here, with its `STUDY` constant and its function, and a line in each of the
//! three lists below.

mod accumulation;
mod accumulators;
mod attention;
mod budget;
mod cores;
mod delayed;
mod elements;
mod formats;
mod fraction_bits;
mod fttn;
mod granularity;
mod k_sweep;
mod layers;
mod mean_shift;
mod mx_rounding;
mod order;
mod positive;
mod power_of_two;
mod probe;
mod promotion;
mod recipes;
mod stochastic;
mod sweep;

pub use accumulation::accumulation;
pub use accumulators::accumulators;
pub use attention::attention;
pub use budget::budget;
pub use delayed::delayed;
pub use formats::formats;
pub use fraction_bits::fraction_bits;
pub use fttn::fttn;
pub use granularity::granularity;
pub use k_sweep::k_sweep;
pub use layers::layers;
pub use mean_shift::mean_shift;
pub use mx_rounding::mx_rounding;
pub use order::order;
pub use positive::positive;
pub use power_of_two::power_of_two;
pub use promotion::promotion;
pub use recipes::recipes;
pub use stochastic::stochastic;

use crate::{Study, StudyError};

/// Every study, in the order of reports.
pub const ALL: &[Study] = &[
    accumulation::STUDY, //
    promotion::STUDY,
    k_sweep::STUDY,
    positive::STUDY,
    mean_shift::STUDY,
    accumulators::STUDY,
    fraction_bits::STUDY,
    attention::STUDY,
    order::STUDY,
    fttn::STUDY,
    formats::STUDY,
    granularity::STUDY,
    power_of_two::STUDY,
    mx_rounding::STUDY,
    budget::STUDY,
    recipes::STUDY,
    stochastic::STUDY,
    delayed::STUDY,
    layers::STUDY,
];

/// The study of that name.
///
/// # Errors
/// [`StudyError::Unknown`], which lists the names that exist.
pub fn find(name: &str) -> Result<&'static Study, StudyError> {
    ALL.iter().find(|study| study.name == name).ok_or_else(|| StudyError::Unknown {
        name: name.to_owned(),
        known: ALL.iter().map(|study| study.name).collect::<Vec<_>>().join(", "),
    })
}
