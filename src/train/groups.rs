//! Metrics by user, stage, generalization and other labels.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::cache::{Cache, CacheSettings};
use crate::dataset::{Batch, Window};
use crate::metrics::{self, Accumulator, Metrics, OverUsers};

/// What groups a window belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    pub(super) user: Option<String>,
    pub(super) stage: Option<String>,
    pub(super) generalization: Option<String>,
    /// Those that are asked for beside these, in that order.
    pub(super) others: Vec<Option<String>>,
}

impl Labels {
    pub(super) fn of(cache: &Cache, window: &Window, others: &[String]) -> Self {
        let listed = cache.recording(window.recording).listed;
        let (user, stage) = (listed.user.clone(), listed.stage.clone());
        let others = others.iter().map(|label| listed.label(label).map(str::to_owned)).collect();
        Self { user, stage, generalization: listed.generalization.clone(), others }
    }
}

/// The metrics of recordings that share a label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub name: String,
    pub windows: u64,
    pub metrics: Metrics,
    pub over_users: Option<OverUsers>,
}

/// What was predicted, by labels: sums, or every window.
enum Part {
    Online { windows: u64, sums: Box<Accumulator> },
    Offline(Vec<metrics::Window>),
}

/// Takes predictions in, gives metrics of any choice of labels. Memory: O(labels) online, O(windows) offline.
pub(super) struct Collector {
    online: bool,
    joints: usize,
    rate: f64,
    emg2pose_derivatives: bool,
    /// Whether joints are some of the recorded ones, and so no whole hand.
    chosen: bool,
    parts: BTreeMap<Labels, Part>,
}

impl Collector {
    pub(super) fn new(online: bool, settings: &CacheSettings, emg2pose_derivatives: bool) -> Self {
        let (joints, rate, chosen) = (settings.joint_angles_channels, settings.sample_rate, settings.joints.is_some());
        Self { online, joints, rate, emg2pose_derivatives, chosen, parts: BTreeMap::new() }
    }

    /// Adds a batch's windows and their predictions [batch, target rows, joints].
    pub(super) fn push(&mut self, batch: &Batch, predictions: &[f32], labels: impl Fn(&Window) -> Labels) {
        let rows = batch.shape.target_rows();
        let elements = rows * self.joints;
        let Some(content) = batch.rows() else { return };
        let parts = predictions.par_chunks_exact(elements).zip(content.joint_angles.par_chunks_exact(elements));
        let parts = parts.zip(content.mask.par_chunks_exact(rows)).zip(&batch.windows);
        if self.online {
            let (joints, rate) = (self.joints, self.rate);
            let sums: Vec<_> =
                parts.map(|(((p, t), mask), window)| (window, Accumulator::of(joints, rate, p, t, mask))).collect();
            // In order, whatever thread was first: sums depend on it.
            for (window, sum) in sums {
                let new = || Part::Online { windows: 0, sums: Box::new(Accumulator::new(joints, rate)) };
                if let Part::Online { windows, sums } = self.parts.entry(labels(window)).or_insert_with(new) {
                    *windows += 1;
                    sums.merge(&sum);
                }
            }
        } else {
            let copies: Vec<_> = parts
                .map(|(((p, t), mask), window)| {
                    let (prediction, target, mask) = (p.to_vec(), t.to_vec(), mask.to_vec());
                    (window, metrics::Window { prediction, target, mask })
                })
                .collect();
            for (window, copy) in copies {
                if let Part::Offline(list) =
                    self.parts.entry(labels(window)).or_insert_with(|| Part::Offline(Vec::new()))
                {
                    list.push(copy);
                }
            }
        }
    }

    /// Metrics over everything; `None` if no row was valid.
    pub(super) fn all(&self) -> Option<Metrics> {
        self.of(|_| true).map(|(_, metrics)| metrics)
    }

    /// Number of windows and metrics over those whose labels are `wanted`; `None` if no row of theirs was valid.
    fn of(&self, wanted: impl Fn(&Labels) -> bool) -> Option<(u64, Metrics)> {
        let parts = self.parts.iter().filter(|(labels, _)| wanted(labels)).map(|(_, part)| part);
        let (mut count, mut sums) = (0, Accumulator::new(self.joints, self.rate));
        let mut list = Vec::new();
        for part in parts {
            match part {
                Part::Online { windows, sums: part } => {
                    count += windows;
                    sums.merge(part);
                }
                Part::Offline(windows) => {
                    count += windows.len() as u64;
                    list.extend(windows);
                }
            }
        }
        let mut metrics = if self.online { sums.finish() } else { metrics::gathered(&list, self.joints, self.rate) };
        if self.emg2pose_derivatives {
            metrics.smoothness = metrics.smoothness.as_emg2pose(self.rate);
        }
        if self.chosen {
            (metrics.mae_deg_per_finger, metrics.mae_deg_per_group) = (None, None);
        }
        (metrics.rows > 0).then_some((count, metrics))
    }

    /// Over the users among those whose labels are `wanted`.
    pub(super) fn over_users(&self, wanted: impl Fn(&Labels) -> bool) -> Option<OverUsers> {
        let users: BTreeSet<_> = self.parts.keys().filter(|l| wanted(l)).filter_map(|l| l.user.as_deref()).collect();
        let own = |user: &str| self.of(|labels| wanted(labels) && labels.user.as_deref() == Some(user));
        let metrics: Vec<_> = users.into_iter().filter_map(own).map(|(_, metrics)| metrics).collect();
        OverUsers::of(&metrics)
    }

    /// The groups that `label` makes, by name; windows without the label are in none.
    pub(super) fn groups(&self, label: impl Fn(&Labels) -> Option<&str>) -> Vec<Group> {
        let names: BTreeSet<_> = self.parts.keys().filter_map(&label).collect();
        let group = |name: &str| {
            let is_of = |labels: &Labels| label(labels) == Some(name);
            let (windows, metrics) = self.of(is_of)?;
            Some(Group { name: name.to_owned(), windows, metrics, over_users: self.over_users(is_of) })
        };
        names.into_iter().filter_map(group).collect()
    }
}
