//! Medians and the like, and the order in which servers take their turns.

/// Median and quartiles of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// A quarter of the values is below it.
    pub low: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub high: f64,
}

impl Spread {
    /// `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share| quantile(&values, share);
        Some(Spread { low: at(0.25)?, median: at(0.5)?, high: at(0.75)? })
    }
}

/// The value below which this share of sorted ones lies, between two of them where need be.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The value that this share of sorted ones does not exceed: one of them, never a mean.
pub fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Who goes when in a round. Over the rounds everybody is equally often first, and comes
/// equally often behind each other one: what a slice leaves behind in caches and on the disk is not
/// always the same one's burden (a Williams design).
pub fn order(contestants: usize, round: usize) -> Vec<usize> {
    let place = |index: usize| match index % 2 {
        1 => index.div_ceil(2),
        _ => contestants - index / 2,
    };
    let mut order: Vec<usize> =
        (0..contestants).map(|index| (place(index) + round) % contestants).collect();
    // With an odd number it takes the mirrored rounds too.
    if contestants > 0 && round / contestants % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn quartiles_lie_between_values() {
        let spread = Spread::of([1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!((spread.low, spread.high), (2.0, 4.0));
        assert_eq!(Spread::of([7.0]).unwrap(), Spread { low: 7.0, median: 7.0, high: 7.0 });
    }

    #[test]
    fn percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!(percentile(&values, 0.99), Some(990));
        assert_eq!(percentile(&values, 0.999), Some(999));
        assert_eq!(percentile(&values, 0.0), Some(1));
        assert_eq!(percentile(&[5], 0.99), Some(5));
        assert_eq!(percentile(&[], 0.99), None);
    }

    #[test]
    fn everybody_goes_once_a_round_and_first_equally_often() {
        let mut first = [0; 4];
        for round in 0..16 {
            let order = order(4, round);
            first[order[0]] += 1;
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
        assert_eq!(first, [4; 4]);
    }

    #[test]
    fn everybody_follows_each_other_one_equally_often() {
        for contestants in 2..8 {
            let mut followed = vec![vec![0; contestants]; contestants];
            for round in 0..contestants * 2 {
                for pair in order(contestants, round).windows(2) {
                    followed[pair[0]][pair[1]] += 1;
                }
            }
            for (one, row) in followed.iter().enumerate() {
                let others = row.iter().enumerate().filter(|(other, _)| *other != one);
                assert!(others.into_iter().all(|(_, &count)| count == 2), "{followed:?}");
            }
        }
    }

    #[test]
    fn nobody_has_no_order() {
        assert_eq!(order(0, 5), [0; 0]);
        assert_eq!(order(1, 5), [0]);
    }
}
