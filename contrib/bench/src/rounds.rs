//! The rounds of a case: everybody has a turn in each.

use serde::Serialize;

use crate::cases::{Case, Goal, OPENSSL, OURS, PLAIN_PUT, PUT_AND_OPENSSL, Unit};
use crate::contest::{Contestant, Sample};
use crate::failure::{Outcome, go_on};
use crate::stats::{Spread, order};

/// What one contestant got, round after round.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Whose.
    pub name: &'static str,
    /// A value for each round.
    pub samples: Vec<Sample>,
}

/// A case that was measured.
pub struct Measured {
    /// Which one.
    pub case: &'static Case,
    /// Ours first.
    pub series: Vec<Series>,
}

/// Whether a goal was met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The number is what the goal speaks of.
    Met(f64),
    /// It is too large.
    Missed(f64),
    /// There was nobody to compare with.
    Absent,
}

/// Lets everybody take turns.
pub fn run(
    case: &'static Case,
    mut contestants: Vec<Box<dyn Contestant + '_>>,
    rounds: usize,
) -> Outcome<Measured> {
    for contestant in &mut contestants {
        contestant.warm_up()?;
    }
    let mut series: Vec<Series> = contestants
        .iter()
        .map(|contestant| Series { name: contestant.name(), samples: Vec::new() })
        .collect();
    for round in 0..rounds {
        for index in order(contestants.len(), round) {
            go_on()?;
            let sample = contestants[index].slice(round + 1 == rounds)?;
            series[index].samples.push(sample);
        }
    }
    let mut measured = Measured { case, series };
    measured.add_put_and_openssl();
    Ok(measured)
}

impl Measured {
    /// The median over the rounds.
    pub fn value(&self, name: &str) -> Option<f64> {
        Some(Spread::of(self.values(name)?)?.median)
    }

    /// Ours by another one's, round by round.
    pub fn ratio(&self, other: &str) -> Option<Spread> {
        self.ratio_of(OURS, other)
    }

    /// One by another one, round by round.
    pub fn ratio_of(&self, one: &str, other: &str) -> Option<Spread> {
        let (one, other) = (self.values(one)?, self.values(other)?);
        Spread::of(one.zip(other).map(|(one, other)| one / other))
    }

    /// Whose median is the lowest.
    pub fn best(&self) -> &'static str {
        let names = self.series.iter().map(|series| series.name);
        let valued = names.filter_map(|name| Some((self.value(name)?, name)));
        valued.min_by(|one, other| one.0.total_cmp(&other.0)).map_or(OURS, |(_, name)| name)
    }

    /// How it stands with a goal.
    pub fn verdict(&self, goal: Goal) -> Verdict {
        let (found, most) = match goal {
            Goal::Of(name, most) => (self.ratio(name).map(|ratio| ratio.median), most),
            Goal::OfBest(most) => (self.ratio_to_best(), most),
            Goal::AtMost(most) => (self.value(OURS), most),
        };
        match found {
            Some(found) if found <= most => Verdict::Met(found),
            Some(found) => Verdict::Missed(found),
            None => Verdict::Absent,
        }
    }

    fn ratio_to_best(&self) -> Option<f64> {
        let peers = self.series.iter().map(|series| series.name);
        let peers = peers.filter(|&name| name != OURS && name != crate::cases::BASELINE);
        let ratios = peers.filter_map(|name| Some(self.ratio(name)?.median));
        ratios.max_by(f64::total_cmp)
    }

    fn values(&self, name: &str) -> Option<impl Iterator<Item = f64>> {
        let series = self.series.iter().find(|series| series.name == name)?;
        Some(series.samples.iter().map(|sample| sample.value))
    }

    fn add_put_and_openssl(&mut self) {
        if self.case.unit != Unit::MillisPerGb {
            return;
        }
        let (Some(plain), Some(digest)) = (self.values(PLAIN_PUT), self.values(OPENSSL)) else {
            return;
        };
        let both = plain.zip(digest).map(|(plain, digest)| plain + digest);
        let samples = both.map(|value| Sample { value, ..Sample::default() }).collect();
        self.series.push(Series { name: PUT_AND_OPENSSL, samples });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{BASELINE, CASES, NGINX};

    fn measured(series: &[(&'static str, &[f64])]) -> Measured {
        let sample = |&value: &f64| Sample { value, ..Sample::default() };
        let series = series
            .iter()
            .map(|(name, values)| Series { name, samples: values.iter().map(sample).collect() });
        Measured { case: &CASES[0], series: series.collect() }
    }

    #[test]
    fn ratio_is_the_median_of_the_rounds_ratios() {
        // A machine that slows down: the medians alone would give 2.0 / 4.0 by chance only.
        let measured = measured(&[(OURS, &[1.0, 2.0, 9.0]), (NGINX, &[2.0, 4.0, 10.0])]);
        assert_eq!(measured.ratio(NGINX).unwrap().median, 0.5);
        assert_eq!(measured.value(NGINX), Some(4.0));
        assert!(measured.ratio("lighttpd").is_none());
    }

    #[test]
    fn goals_are_judged() {
        let measured = measured(&[(OURS, &[3.0]), (NGINX, &[4.0]), (BASELINE, &[1.0])]);
        assert_eq!(measured.verdict(Goal::Of(NGINX, 0.75)), Verdict::Met(0.75));
        assert_eq!(measured.verdict(Goal::Of(NGINX, 0.74)), Verdict::Missed(0.75));
        assert_eq!(measured.verdict(Goal::Of("cmogstored", 0.8)), Verdict::Absent);
        assert_eq!(measured.verdict(Goal::AtMost(2.0)), Verdict::Missed(3.0));
        assert_eq!(measured.verdict(Goal::OfBest(0.9)), Verdict::Met(0.75));
    }
}
