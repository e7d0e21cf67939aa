//! Choices that a seed repeats.

use std::{ops::Range, time::Duration};

/// Throws the same numbers for the same seed. Everybody has dice of their own: what others do changes nobody's throws.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of somebody in a run.
    pub fn new(seed: u64, whose: &str) -> Self {
        let start = Self(seed);
        whose.bytes().fold(start, |mut dice, byte| Self(dice.throw() ^ u64::from(byte)))
    }

    /// The next number: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of a range that is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.throw() % (range.end - range.start)
    }

    /// One of those that are there.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.within(0..all.len() as u64) as usize]
    }

    /// True in this share of the throws, 0 to 1.
    pub fn chance(&mut self, share: f64) -> bool {
        ((self.throw() >> 11) as f64) < share * (1_u64 << 53) as f64
    }

    /// Milliseconds of a range, as a duration.
    pub fn pause(&mut self, range_ms: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_throws_and_everybody_has_their_own() {
        let throws = |seed, whose| {
            let mut dice = Dice::new(seed, whose);
            [dice.throw(), dice.throw(), dice.throw()]
        };
        assert_eq!(throws(1, "ada"), throws(1, "ada"));
        assert_ne!(throws(1, "ada"), throws(2, "ada"));
        assert_ne!(throws(1, "ada"), throws(1, "bob"));
    }

    #[test]
    fn throws_are_spread_as_asked_for() {
        let mut dice = Dice::new(7, "anybody");
        assert!((0..1_000).all(|_| (3..6).contains(&dice.within(3..6))));
        let hits = (0..10_000).filter(|_| dice.chance(0.2)).count();
        assert!((1_700..2_300).contains(&hits), "{hits} of 10000");
        assert!((0..1_000).all(|_| dice.chance(1.0)) && !(0..1_000).any(|_| dice.chance(0.0)));
    }
}
