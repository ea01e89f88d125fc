//! Chance that can be repeated: the same seed gives the same numbers.

/// Sets the seed of a run that is to be repeated, or varied.
const SEED: &str = "RMOGSTORED_TEST_SEED";

/// A generator of numbers: splitmix64.
#[derive(Clone)]
pub struct Chance(u64);

impl Chance {
    /// The numbers that belong to a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The seed of this run, told so that a failure can be repeated.
    pub fn seed() -> u64 {
        let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or(20_260_101);
        println!("{SEED}={seed}");
        seed
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    /// One of the items.
    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
