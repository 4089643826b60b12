//! What is unusual in recordings, without being an error: gaps in time, constant channels, joints that were not measured.

use super::segment::SegmentRecording;

/// A kind of oddity.
struct Kind {
    /// Of all recordings that have it.
    summary: &'static str,
    /// What it is in one recording, if it is there.
    of: fn(&SegmentRecording, &[String]) -> Option<String>,
}

const KINDS: [Kind; 4] = [
    Kind {
        summary: "no row with usable angles",
        of: |content, _| content.valid_runs.is_empty().then(|| "no row has usable angles".to_owned()),
    },
    Kind {
        summary: "gaps in time",
        of: |content, _| (content.time_gaps > 0).then(|| format!("{} gaps in time", content.time_gaps)),
    },
    Kind {
        summary: "constant EMG channels",
        of: |content, _| {
            let flat = content.emg.constant_columns();
            (!flat.is_empty()).then(|| format!("EMG channels {flat:?} are constant"))
        },
    },
    Kind {
        summary: "joints that were not measured",
        of: |content, names| {
            let name = |joint: &usize| names.get(*joint).map_or("?", String::as_str);
            let joints: Vec<_> = content.unmeasured_joints.iter().map(name).collect();
            (!joints.is_empty()).then(|| format!("not measured, so excluded from errors: {}", joints.join(", ")))
        },
    },
];

/// What is unusual in one recording.
pub(super) fn of(content: &SegmentRecording, joint_names: &[String]) -> Vec<String> {
    KINDS.iter().filter_map(|kind| (kind.of)(content, joint_names)).collect()
}

/// What is unusual in several recordings, a line for each kind.
pub(super) fn summarized<'a>(
    recordings: impl Iterator<Item = (&'a str, &'a SegmentRecording)>,
    joint_names: &[String],
) -> Vec<String> {
    /// More would hide the rest.
    const NAMED: usize = 5;
    let mut found: [Vec<String>; KINDS.len()] = Default::default();
    for (name, content) in recordings {
        for (kind, found) in KINDS.iter().zip(&mut found) {
            found.extend((kind.of)(content, joint_names).map(|what| format!("`{name}`: {what}")));
        }
    }
    let line = |(kind, lines): (&Kind, Vec<String>)| match lines.len() {
        0..=NAMED => lines,
        n => vec![format!("{n} recordings have {}, among them {}", kind.summary, lines[..NAMED].join("; "))],
    };
    KINDS.iter().zip(found).flat_map(line).collect()
}
