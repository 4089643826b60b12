//! Planning: which published segments stay and how the rest is packed into new ones. A pure function of the
//! wanted recordings and the published manifests' segments.

use std::collections::{HashMap, HashSet};

use super::key::Key;

/// A recording to be cached: each content once, in recording order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) blake3: Key,
    /// Bytes of its rows in a segment.
    pub(crate) bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Segments to use as they are.
    pub(crate) kept: Vec<Key>,
    /// Segments to build: indices into the wanted recordings.
    pub(crate) new: Vec<Vec<usize>>,
}

/// Decides when a segment is full: it is closed before it would grow beyond `limit` bytes.
#[derive(Debug)]
pub(crate) struct Packer {
    limit: u64,
    bytes: u64,
}

impl Packer {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0 }
    }

    /// Places the next recording; true if a new segment starts with it.
    pub(crate) fn starts_new(&mut self, bytes: u64) -> bool {
        let new = self.bytes > 0 && self.bytes.saturating_add(bytes) > self.limit;
        self.bytes = if new { bytes } else { self.bytes.saturating_add(bytes) };
        new
    }
}

/// `published`: segments of the wanted settings with their recordings, sorted by key.
pub(crate) fn plan(wanted: &[Wanted], published: &[(Key, Vec<Key>)], limit: u64) -> Plan {
    let positions: HashMap<_, _> = wanted.iter().enumerate().map(|(i, w)| (&w.blake3, i)).collect();
    let mut covered = HashSet::new();
    let mut kept = Vec::new();
    // Those with most recordings first: what small ones hold may have been folded into them.
    let mut largest_first: Vec<_> = published.iter().collect();
    largest_first.sort_by_key(|(_, recordings)| std::cmp::Reverse(recordings.len()));
    for (key, recordings) in largest_first {
        let places: Option<Vec<_>> = recordings.iter().map(|recording| positions.get(recording)).collect();
        // In recording order, so that the segment can be made again from the manifest alone.
        let ordered = places.is_some_and(|places| places.is_sorted());
        let useful = ordered && recordings.iter().all(|recording| !covered.contains(recording));
        if useful && !recordings.is_empty() {
            covered.extend(recordings);
            kept.push(key.clone());
        }
    }
    let mut packer = Packer::new(limit);
    let mut new: Vec<Vec<usize>> = Vec::new();
    for (i, recording) in wanted.iter().enumerate().filter(|(_, recording)| !covered.contains(&recording.blake3)) {
        match new.last_mut() {
            Some(last) if !packer.starts_new(recording.bytes) => last.push(i),
            None => {
                packer.starts_new(recording.bytes);
                new.push(vec![i]);
            }
            Some(_) => new.push(vec![i]),
        }
    }
    Plan { kept, new }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(ids: &[u32]) -> Vec<Wanted> {
        ids.iter().map(|id| Wanted { blake3: Key::of(id), bytes: 40 }).collect()
    }

    fn published(ids: &[u32]) -> (Key, Vec<Key>) {
        (Key::of(&ids), ids.iter().map(Key::of).collect())
    }

    #[test]
    fn segments_close_before_they_grow_too_large() {
        let plan = plan(&wanted(&[1, 2, 3, 4, 5]), &[], 100);
        assert_eq!(plan.new, [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(super::plan(&wanted(&[1, 2]), &[], 1).new, [vec![0], vec![1]]);
    }

    #[test]
    fn large_segments_are_preferred() {
        let published = [published(&[1]), published(&[1, 2, 3]), published(&[2])];
        assert_eq!(plan(&wanted(&[1, 2, 3]), &published, 1000).kept, [published[1].0.clone()]);
    }

    #[test]
    fn segments_stay_if_all_their_recordings_are_wanted() {
        let published = [published(&[1, 2]), published(&[2, 3]), published(&[4, 9]), published(&[4, 3])];
        let plan = plan(&wanted(&[1, 2, 3, 4]), &published, 1000);
        assert_eq!(plan.kept, [published[0].0.clone()]);
        assert_eq!(plan.new, [vec![2, 3]]);
    }
}
