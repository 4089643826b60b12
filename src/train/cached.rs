//! Adapts a configuration to a cache: the cache's settings replace its own.

use serde_json::json;

use super::error::TrainError;
use crate::cache::{Assigned, Assignment, CacheSettings, Manifest};
use crate::config::{Difference, Joint, LayoutChoice, Loaded, differences};

/// Replaces the configuration's settings with the cache's.
///
/// # Errors
/// A key that was set explicitly to something else.
pub fn apply_manifest(loaded: &mut Loaded, manifest: &Manifest) -> Result<(), TrainError> {
    let (given, cached) = (CacheSettings::new(&loaded.config), &manifest.settings);
    for Difference { key: name, here, there } in differences(&given, cached, 1) {
        let key = CacheSettings::config_key(&name);
        let shorthand = match name.as_str() {
            "normalize_emg" | "normalize_angles" => loaded.explicit.contains("data.normalize"),
            "layout" => ["data.hdf5_group", "data.table_name"].iter().any(|key| loaded.explicit.contains(*key)),
            _ => false,
        };
        if loaded.explicit.contains(&key) || shorthand {
            return Err(TrainError::SettingsMismatch(Box::new(Difference { key, here, there })));
        }
    }
    let data = &mut loaded.config.data;
    data.layout = LayoutChoice::Described(Box::new(cached.layout.clone()));
    data.emg_channels = cached.emg_channels;
    data.joint_angles_channels = cached.joints.as_ref().map_or(cached.joint_angles_channels, |joints| joints.recorded);
    data.joints = cached.joints.as_ref().map(|joints| joints.columns.iter().copied().map(Joint::Number).collect());
    data.dtype = cached.dtype;
    data.statistics = cached.statistics;
    data.max_samples_for_normalize = cached.max_samples_for_normalize;
    data.normalize_emg = Some(cached.normalize_emg);
    data.normalize_angles = Some(cached.normalize_angles);
    data.window_size = cached.window_size;
    data.stride = cached.stride;
    data.padding = cached.padding;
    data.skip_ik_failures = cached.skip_ik_failures;
    data.eval_window = Some(cached.eval_window);
    data.eval_stride = Some(cached.eval_stride);
    let model = &mut loaded.config.model;
    model.original_sampling_rate = cached.sample_rate;
    for (key, own, has) in [
        ("model.input_size", &mut model.input_size, cached.emg_channels),
        ("model.output_size", &mut model.output_size, cached.joint_angles_channels),
    ] {
        if *own != has && loaded.explicit.contains(key) {
            let difference = Difference { key: key.into(), here: (*own).into(), there: has.into() };
            return Err(TrainError::SettingsMismatch(Box::new(difference)));
        }
        *own = has;
    }
    Ok(loaded.config.validate()?)
}

/// Replaces the configuration's rule of random splits with the cache's.
///
/// # Errors
/// A key that was set explicitly to something else.
pub fn apply_splits(loaded: &mut Loaded, manifest: &Manifest) -> Result<(), TrainError> {
    let data = &mut loaded.config.data;
    let given = Assignment { ratio: data.split_ratio, by: data.split_by, seed: data.seed };
    let cached = manifest.assigned.as_ref().map(|assigned| assigned.assignment);
    let keys = [
        ("data.split_ratio", json!(given.ratio), cached.map(|cached| json!(cached.ratio))),
        ("data.split_by", json!(given.by), cached.map(|cached| json!(cached.by))),
        ("data.seed", json!(given.seed), cached.map(|cached| json!(cached.seed))),
    ];
    // Where the manifest does not say which splits a metadata.csv gave, nothing is known to contradict it.
    let differs = manifest.is_assigned_by(&given) == Some(false);
    for (key, here, there) in keys.into_iter().filter(|(key, ..)| differs && loaded.explicit.contains(*key)) {
        if let Some(there) = there.filter(|there| here != *there) {
            return Err(TrainError::SettingsMismatch(Box::new(Difference { key: key.into(), here, there })));
        }
    }
    if let Some(Assigned { assignment, .. }) = manifest.assigned {
        (data.split_ratio, data.split_by, data.seed) = (assignment.ratio, assignment.by, assignment.seed);
    }
    Ok(())
}
