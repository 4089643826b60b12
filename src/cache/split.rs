//! Splits: train, val and test, and how recordings that no metadata.csv assigns get theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::CacheError;
use super::key::Key;
use crate::config::SplitBy;
use crate::random::Random;

/// Part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// The split of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.name() == name)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A recording without a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub blake3: Key,
    pub user: Option<String>,
    pub session: Option<String>,
}

/// How recordings are assigned to splits at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Shares of train, val and test.
    pub ratio: [f64; 3],
    /// What stays together: recordings, sessions or users.
    pub by: SplitBy,
    pub seed: u64,
}

impl Assignment {
    /// Assigns each candidate a split. Units that stay together are shuffled by the seed and shared out by the ratio.
    /// Equal contents always share a split.
    ///
    /// # Errors
    /// [`CacheError::MissingSplitUnit`]: a recording without the session or user that `by` asks for.
    pub fn assign(&self, candidates: &[Candidate]) -> Result<Vec<Split>, CacheError> {
        let units = candidates.iter().map(|candidate| unit(candidate, self.by)).collect::<Result<Vec<_>, _>>()?;
        let distinct: BTreeSet<_> = units.iter().collect();
        let mut shuffled: Vec<_> = distinct.into_iter().collect();
        shuffled.sort_by_cached_key(|unit| {
            let hash = blake3::hash(unit.as_bytes());
            let word = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
            (Random::new(&[self.seed, word]).next_u64(), *unit)
        });
        let counts = shares(shuffled.len(), self.ratio);
        let splits = Split::ALL.into_iter().zip(counts).flat_map(|(split, count)| std::iter::repeat_n(split, count));
        let by_unit: BTreeMap<_, _> = shuffled.into_iter().zip(splits).collect();
        Ok(units.iter().map(|unit| by_unit[unit]).collect())
    }
}

fn unit(candidate: &Candidate, by: SplitBy) -> Result<String, CacheError> {
    let label = match by {
        SplitBy::Recording => return Ok(candidate.blake3.to_string()),
        SplitBy::Session => &candidate.session,
        SplitBy::User => &candidate.user,
    };
    label.clone().ok_or_else(|| CacheError::MissingSplitUnit { recording: candidate.name.clone(), by })
}

/// Shares out `n` units by largest remainder; every split with a share gets a unit if there are enough.
fn shares(n: usize, ratio: [f64; 3]) -> [usize; 3] {
    let exact = ratio.map(|share| share * n as f64);
    let mut counts = exact.map(|share| share.floor() as usize);
    while counts.iter().sum::<usize>() < n {
        let remainder = |i: &usize| exact[*i] - counts[*i] as f64;
        let largest = (0..3).max_by(|a, b| remainder(a).total_cmp(&remainder(b)).then(b.cmp(a))).expect("three");
        counts[largest] += 1;
    }
    if n >= ratio.iter().filter(|share| **share > 0.0).count() {
        for i in 0..3 {
            let largest = (0..3).max_by_key(|j| counts[*j]).expect("three");
            if ratio[i] > 0.0 && counts[i] == 0 && counts[largest] > 1 {
                counts[i] += 1;
                counts[largest] -= 1;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(n: usize, users: usize) -> Vec<Candidate> {
        let one = |i: usize| Candidate {
            name: format!("r{i}"),
            blake3: Key::of(&i),
            user: Some(format!("u{}", i % users)),
            session: None,
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn shares_follow_the_ratio_and_leave_no_split_empty() {
        assert_eq!(shares(100, [0.7, 0.15, 0.15]), [70, 15, 15]);
        assert_eq!(shares(3, [0.7, 0.15, 0.15]), [1, 1, 1]);
        assert_eq!(shares(1, [0.7, 0.15, 0.15]), [1, 0, 0]);
        assert_eq!(shares(10, [1.0, 0.0, 0.0]), [10, 0, 0]);
        assert_eq!(shares(0, [0.7, 0.15, 0.15]), [0, 0, 0]);
    }

    #[test]
    fn users_stay_together_and_the_seed_decides() {
        let candidates = candidates(40, 8);
        let splits = Assignment { ratio: [0.5, 0.25, 0.25], by: SplitBy::User, seed: 1 }.assign(&candidates).unwrap();
        for (i, split) in splits.iter().enumerate() {
            assert_eq!(*split, splits[i % 8]);
        }
        assert_eq!(
            splits,
            Assignment { ratio: [0.5, 0.25, 0.25], by: SplitBy::User, seed: 1 }.assign(&candidates).unwrap()
        );
        assert_ne!(
            splits,
            Assignment { ratio: [0.5, 0.25, 0.25], by: SplitBy::User, seed: 2 }.assign(&candidates).unwrap()
        );
        assert!(
            Assignment { ratio: [0.5, 0.25, 0.25], by: SplitBy::Session, seed: 1 }
                .assign(&candidates)
                .unwrap_err()
                .to_string()
                .contains("session")
        );
    }

    #[test]
    fn equal_contents_share_a_split() {
        let mut doubled = candidates(20, 3);
        doubled.extend(candidates(20, 3));
        let splits = Assignment { ratio: [0.5, 0.25, 0.25], by: SplitBy::Recording, seed: 9 }.assign(&doubled).unwrap();
        assert_eq!(splits[..20], splits[20..]);
    }
}
