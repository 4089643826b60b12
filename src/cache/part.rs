//! Cluster builds: each of n processes builds its share of the planned segments; a plain build then finds them.

use std::collections::HashSet;
use std::path::Path;

use super::build::{BuildOptions, Builder, Events, Segments};
use super::error::CacheError;
use super::inputs::Inputs;
use super::keys::Key;
use super::memo::Facts;
use super::pipeline::ordered;
use super::plan::{Wanted, plan};
use super::store::Store;

/// What a part of a build did.
#[derive(Debug)]
pub struct PartBuilt {
    /// Segments that the whole build needs beyond those that caches of the store have.
    pub planned: usize,
    /// Of them, this part's.
    pub share: usize,
    pub segments_written: usize,
    pub recordings_read: usize,
}

/// Builds share `part` (from 1) of `parts` of the segments that [`build`](super::build()) would write now.
///
/// Of recordings that this machine's memo does not know, only headers are read to plan, so recordings with equal
/// content under two names, and files that turn out unusable only when their rows are read, make a later plain build
/// write the segments they fall into again.
///
/// # Errors
/// As `build`; a part beyond the parts.
pub fn build_part(
    root: &Path,
    options: &BuildOptions,
    (part, parts): (usize, usize),
    events: &dyn Events,
) -> Result<PartBuilt, CacheError> {
    let store = Store::create(root)?;
    let tmp = store.begin()?;
    let mut builder = Builder::new(&store, options, events)?;
    // Recordings of one name are ordered by their hash.
    let mut names = HashSet::new();
    let twice: HashSet<_> = builder
        .inputs
        .list
        .iter()
        .filter(|input| !names.insert(&input.found.name))
        .map(|input| input.found.name.clone())
        .collect();
    let unknown = builder.inputs.unknown();
    let doubtful: Vec<_> =
        unknown.into_iter().filter(|i| twice.contains(&builder.inputs.list[*i].found.name)).collect();
    builder.inputs.scan(&doubtful)?;
    let planned = wanted(&builder.inputs)?;
    let contents: Vec<_> = planned.iter().map(|(_, wanted)| wanted.clone()).collect();
    let published: Vec<_> = builder
        .published()?
        .iter()
        .map(|(key, (index, _))| (key.clone(), index.recordings.iter().map(|r| r.blake3.clone()).collect()))
        .collect();
    let groups = plan(&contents, &published, options.segment_bytes).new;
    let count = groups.len();
    let share: Vec<_> = groups.into_iter().skip(part - 1).step_by(parts).collect();
    let mut segments = Segments::new();
    for group in &share {
        let known: Vec<_> = group.iter().map(|i| contents[*i].blake3.clone()).collect();
        if builder.read_segment(&builder.inputs.segment_settings.key(&known)).is_err() {
            let inputs: Vec<_> = group.iter().map(|i| planned[*i].0).collect();
            builder.write_segments(&tmp, &inputs, u64::MAX, &mut segments)?;
        }
    }
    builder.inputs.save();
    Ok(PartBuilt {
        planned: count,
        share: share.len(),
        segments_written: builder.segments_written,
        recordings_read: builder.inputs.read,
    })
}

/// What to have in segments, in recording order, with the hash of a recording's path in place of a hash that is not
/// known.
fn wanted(inputs: &Inputs<'_>) -> Result<Vec<(usize, Wanted)>, CacheError> {
    let listed: Vec<_> = inputs.listed().collect();
    let mut rows = Vec::new();
    let header = |i: usize| match &inputs.list[listed[i]].known {
        Some((key, Facts::Usable { rows, .. })) => Some((key.clone(), *rows)),
        Some((_, Facts::Bad(_))) => None,
        None => {
            let input = &inputs.list[listed[i]];
            Some((Key::of(&("unknown", &input.found.place)), inputs.rows(listed[i]).ok()?))
        }
    };
    let threads = Inputs::threads();
    ordered(listed.len(), threads, 64 * threads, header, |i, found| {
        rows.extend(found.map(|(key, rows)| (listed[i], key, rows)));
        Ok::<_, CacheError>(())
    })?;
    rows.sort_by_cached_key(|(i, key, _)| (inputs.list[*i].found.name.clone(), key.clone()));
    let mut seen = HashSet::new();
    rows.retain(|(_, key, _)| seen.insert(key.clone()));
    let bytes = |rows| inputs.segment_settings.bytes(rows);
    Ok(rows.into_iter().map(|(i, blake3, rows)| (i, Wanted { blake3, bytes: bytes(rows) })).collect())
}
