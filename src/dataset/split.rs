//! Random splits, for recordings that no metadata.csv assigns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::random::Random;
use crate::cache::{BuildOptions, CacheSettings, Candidate, Split};
use crate::config::{Config, OnBad, SplitBy};
use crate::recording::Hdf5;

/// What `config` asks the cache to be built from; `inputs`: files or folders in the place of `data.dataset_path`.
///
/// # Errors
/// Neither names a recording.
pub fn build_options(config: &Config, mut inputs: Vec<PathBuf>, hdf5: Hdf5) -> Result<BuildOptions, String> {
    let data = &config.data;
    if inputs.is_empty() {
        let path = data.dataset_path.clone();
        inputs.push(path.ok_or("no recordings named: set data.dataset_path or name files or folders")?);
    }
    let (ratio, by, seed) = (data.split_ratio, data.split_by, data.seed);
    Ok(BuildOptions {
        settings: CacheSettings::new(config),
        inputs,
        segment_bytes: data.segment_bytes,
        skip_bad: data.on_bad_recording == OnBad::Skip,
        chunk_cache: data.chunk_cache_size,
        hdf5,
        metadata_columns: data.resolved_layout()?.metadata,
        splitter: Box::new(move |candidates| assign(candidates, ratio, by, seed)),
    })
}

/// Assigns each candidate a split. What `by` names (recordings, sessions or users) stays together; the units are
/// shuffled by `seed` and shared out by `ratio`. Equal contents always share a split.
///
/// # Errors
/// A recording without the session or user that `by` asks for.
pub fn assign(candidates: &[Candidate], ratio: [f64; 3], by: SplitBy, seed: u64) -> Result<Vec<Split>, String> {
    let units = candidates.iter().map(|candidate| unit(candidate, by)).collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<_> = units.iter().collect();
    let mut shuffled: Vec<_> = distinct.into_iter().collect();
    shuffled.sort_by_cached_key(|unit| {
        let hash = blake3::hash(unit.as_bytes());
        let word = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        (Random::new(&[seed, word]).next_u64(), *unit)
    });
    let counts = shares(shuffled.len(), ratio);
    let splits = Split::ALL.into_iter().zip(counts).flat_map(|(split, count)| std::iter::repeat_n(split, count));
    let by_unit: BTreeMap<_, _> = shuffled.into_iter().zip(splits).collect();
    Ok(units.iter().map(|unit| by_unit[unit]).collect())
}

fn unit(candidate: &Candidate, by: SplitBy) -> Result<String, String> {
    let label = match by {
        SplitBy::Recording => return Ok(candidate.blake3.to_string()),
        SplitBy::Session => &candidate.session,
        SplitBy::User => &candidate.user,
    };
    label.clone().ok_or_else(|| {
        format!("data.split_by: {by}: recording {} names no {by} in its attributes or a metadata.csv", candidate.name)
    })
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
    use crate::cache::Key;

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
        let splits = assign(&candidates, [0.5, 0.25, 0.25], SplitBy::User, 1).unwrap();
        for (i, split) in splits.iter().enumerate() {
            assert_eq!(*split, splits[i % 8]);
        }
        assert_eq!(splits, assign(&candidates, [0.5, 0.25, 0.25], SplitBy::User, 1).unwrap());
        assert_ne!(splits, assign(&candidates, [0.5, 0.25, 0.25], SplitBy::User, 2).unwrap());
        assert!(assign(&candidates, [0.5, 0.25, 0.25], SplitBy::Session, 1).unwrap_err().contains("session"));
    }

    #[test]
    fn equal_contents_share_a_split() {
        let mut doubled = candidates(20, 3);
        doubled.extend(candidates(20, 3));
        let splits = assign(&doubled, [0.5, 0.25, 0.25], SplitBy::Recording, 9).unwrap();
        assert_eq!(splits[..20], splits[20..]);
    }
}
