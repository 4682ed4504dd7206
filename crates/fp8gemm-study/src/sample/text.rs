//! Distributions as text: `name(parameter, parameter)`.

use core::fmt;
use core::str::FromStr;

use super::Distribution;
use crate::StudyError;

impl Distribution {
    /// The name before the parameters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Normal { .. } => "normal",
            Self::Uniform { .. } => "uniform",
            Self::LogNormal { .. } => "log-normal",
            Self::Laplace { .. } => "laplace",
            Self::StudentT { .. } => "student-t",
            Self::OutlierElements { .. } => "outlier-elements",
            Self::OutlierChannels { .. } => "outlier-channels",
            Self::SoftmaxRows { .. } => "softmax-rows",
            Self::Drift { .. } => "drift",
        }
    }

    pub(super) fn parameters(&self) -> Vec<f64> {
        match *self {
            Self::Normal { mean, std } => vec![mean, std],
            Self::Uniform { low, high } => vec![low, high],
            Self::LogNormal { mu, sigma } => vec![mu, sigma],
            Self::Laplace { scale } | Self::SoftmaxRows { scale } => vec![scale],
            Self::StudentT { degrees } => vec![f64::from(degrees)],
            Self::OutlierElements { share, factor } | Self::OutlierChannels { share, factor } => vec![share, factor],
            Self::Drift { from, to } => vec![from, to],
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: Vec<String> = self.parameters().iter().map(f64::to_string).collect();
        f.pad(&format!("{}({})", self.name(), parameters.join(", ")))
    }
}

impl FromStr for Distribution {
    type Err = StudyError;

    /// Reads what `Display` writes; `normal` and `uniform` alone mean (0, 1).
    fn from_str(text: &str) -> Result<Self, StudyError> {
        let error = |rule| StudyError::Distribution { text: text.to_owned(), rule };
        let (name, inside) = match text.trim().split_once('(') {
            Some((name, rest)) => (name.trim(), rest.strip_suffix(')').ok_or_else(|| error("a `)` is missing"))?),
            None => (text.trim(), ""),
        };
        let parameters = match inside.trim() {
            "" => Vec::new(),
            inside => inside
                .split(',')
                .map(|x| x.trim().parse::<f64>().map_err(|_| error("a parameter is not a number")))
                .collect::<Result<Vec<_>, _>>()?,
        };
        let distribution = match (name, &parameters[..]) {
            ("normal", []) => Self::NORMAL,
            ("normal", &[mean, std]) => Self::Normal { mean, std },
            ("uniform", []) => Self::UNIFORM,
            ("uniform", &[low, high]) => Self::Uniform { low, high },
            ("log-normal", &[mu, sigma]) => Self::LogNormal { mu, sigma },
            ("laplace", &[scale]) => Self::Laplace { scale },
            ("student-t", &[degrees]) if degrees == f64::from(degrees as u32) => {
                Self::StudentT { degrees: degrees as u32 }
            }
            ("outlier-elements", &[share, factor]) => Self::OutlierElements { share, factor },
            ("outlier-channels", &[share, factor]) => Self::OutlierChannels { share, factor },
            ("softmax-rows", &[scale]) => Self::SoftmaxRows { scale },
            ("drift", &[from, to]) => Self::Drift { from, to },
            _ => {
                return Err(error(
                    "expected normal(mean, std), uniform(low, high), log-normal(mu, sigma), laplace(scale), \
                     student-t(degrees), outlier-elements(share, factor), outlier-channels(share, factor), \
                     softmax-rows(scale) or drift(from, to)",
                ));
            }
        };
        distribution.check()?;
        Ok(distribution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a printed distribution no longer parses, or if a malformed one is accepted.
    #[test]
    fn prints_and_parses() {
        for text in [
            "normal(0.5, 2)",
            "uniform(-1, 1)",
            "log-normal(0, 1.5)",
            "laplace(1)",
            "student-t(3)",
            "outlier-elements(0.001, 100)",
            "outlier-channels(0.01, 50)",
            "softmax-rows(4)",
            "drift(0.01, 10)",
        ] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "gauss",
            "normal(1",
            "normal(1)",
            "normal(a, b)",
            "normal(0, -1)",
            "uniform(2, 1)",
            "student-t(0)",
            "student-t(1.5)",
            "outlier-elements(2, 1)",
            "drift(0, 1)",
            "normal(NaN, 1)",
            "normal(0, inf)",
        ] {
            assert!(bad.parse::<Distribution>().is_err(), "{bad:?} was accepted");
        }
    }
}
