//! Cluster builds: each of n processes builds its share of the planned segments; a plain build then finds them.

use std::collections::HashSet;
use std::path::Path;

use super::build::Builder;
use super::error::CacheError;
use super::events::Events;
use super::inputs::Inputs;
use super::key::Key;
use super::keys::segment_key;
use super::memo::Facts;
use super::options::BuildOptions;
use super::ordered_map::ordered;
use super::plan::{Wanted, plan};
use super::segment::{Segments, contents_of};
use super::settings::NORMALIZER;
use super::store::Store;
use crate::recording::Verdict;

/// What a part of a build did.
#[derive(Debug)]
pub struct PartSummary {
    /// Segments that the whole build needs beyond those that caches of the store have.
    pub planned: usize,
    /// Of them, this part's.
    pub share: usize,
    pub segments_written: usize,
    pub recordings_read: usize,
}

/// Builds share `part` (from 1) of `parts` of the segments that [`build`](super::build()) would write now.
///
/// Where the store has no caches yet, only headers are read of recordings that this machine's memo does not know; so
/// recordings with equal content under two names, and files that turn out unusable only when their rows are read, make
/// a later plain build write the segments they fall into again. Where it has some, only hashes tell what their segments
/// hold, and every recording that the memo does not know is hashed.
///
/// # Errors
/// As `build`; a part beyond the parts.
pub fn build_part(
    root: &Path,
    options: &BuildOptions,
    (part, parts): (usize, usize),
    events: &dyn Events,
) -> Result<PartSummary, CacheError> {
    let store = Store::create(root)?;
    let mut builder = Builder::new(&store, options, events)?;
    let result = build_share(&mut builder, part, parts);
    builder.inputs.save();
    result
}

fn build_share(builder: &mut Builder<'_>, part: usize, parts: usize) -> Result<PartSummary, CacheError> {
    let tmp = builder.store.begin()?;
    let published = contents_of(&builder.published()?);
    // Recordings of one name are ordered by their hash; and which ones published segments hold, only hashes tell.
    let mut names = HashSet::new();
    let list = &builder.inputs.list;
    let twice: HashSet<_> = list.iter().map(|input| &input.found.name).filter(|name| !names.insert(*name)).collect();
    let doubtful = |i: &usize| !published.is_empty() || twice.contains(&list[*i].found.name);
    let doubtful: Vec<_> = builder.inputs.unknown().into_iter().filter(doubtful).collect();
    builder.inputs.scan(&doubtful)?;
    let planned = wanted(&builder.inputs)?;
    let contents: Vec<_> = planned.iter().map(|(_, wanted)| wanted.clone()).collect();
    let groups = plan(&contents, &published, builder.inputs.options.segment_bytes).new;
    let count = groups.len();
    let share: Vec<_> = groups.into_iter().skip(part - 1).step_by(parts).collect();
    let mut segments = Segments::new();
    for group in &share {
        let known: Vec<_> = group.iter().map(|i| contents[*i].blake3.clone()).collect();
        if builder.read_segment(&segment_key(NORMALIZER, &builder.inputs.segment_settings, &known)).is_err() {
            let inputs: Vec<_> = group.iter().map(|i| planned[*i].0).collect();
            builder.write_segments(&tmp, &inputs, u64::MAX, &mut segments)?;
        }
    }
    Ok(PartSummary {
        planned: count,
        share: share.len(),
        segments_written: builder.segments_written,
        recordings_read: builder.inputs.recordings_read(),
    })
}

/// What to have in segments, in recording order, with the hash of a recording's path in place of a hash that is not
/// known.
fn wanted(inputs: &Inputs<'_>) -> Result<Vec<(usize, Wanted)>, CacheError> {
    let listed: Vec<_> = inputs.listed().collect();
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    let header = |i: usize| match &inputs.list[listed[i]].known {
        Some((key, Facts::Usable { rows, .. })) => Ok((key.clone(), *rows)),
        Some((_, Facts::Bad { reason, is_recording })) => Err(Ok((reason.clone(), *is_recording))),
        None => {
            let path = inputs.list[listed[i]].found.memo_path();
            let stand_in = Key::from(blake3::hash(path.as_os_str().as_encoded_bytes()));
            match inputs.rows(listed[i]) {
                Ok(rows) => Ok((stand_in, rows)),
                Err(error) => match error.verdict(inputs.list[listed[i]].found.is_doubtful) {
                    // What passes must not move the other parts' segments.
                    Verdict::Unknown => Err(Err(error)),
                    verdict => Err(Ok((error.to_string(), verdict == Verdict::Bad))),
                },
            }
        }
    };
    let threads = Inputs::threads();
    ordered(listed.len(), threads, 64 * threads, header, |i, found| {
        match found {
            // Too short for any window: in no cache, so in no segment.
            Ok((_, rows)) if inputs.needed_rows(listed[i]).is_some_and(|needed| rows < needed) => {}
            Ok((key, count)) => rows.push((listed[i], key, count)),
            Err(Ok((reason, true))) => bad.push(reason),
            Err(Ok((_, false))) => {}
            Err(Err(error)) => return Err(CacheError::from(error)),
        }
        Ok(())
    })?;
    if !bad.is_empty() && !inputs.options.skip_bad {
        return Err(CacheError::BadRecordings { total: inputs.list.len(), bad, left_out: Vec::new() });
    }
    rows.sort_by_cached_key(|(i, key, _)| (inputs.list[*i].found.name.clone(), key.clone()));
    let mut seen = HashSet::new();
    rows.retain(|(_, key, _)| seen.insert(key.clone()));
    let bytes = |rows| inputs.segment_settings.bytes(rows);
    Ok(rows.into_iter().map(|(i, blake3, rows)| (i, Wanted { blake3, bytes: bytes(rows) })).collect())
}
