//! The metadata of an exported ONNX model, written by `export` and read by `predict`.

use crate::cache::{Key, SegmentSettings};
use crate::config::{AxisLayout, ModelType, Normalize};
use crate::digest::{MODEL_DIGEST, model_placeholder};

/// The metadata of an exported model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelMetadata {
    pub joints: Vec<String>,
    /// Rows per window.
    pub window: usize,
    /// Rows at a window's start without a prediction.
    pub left_context: usize,
    /// Rows at its end without one.
    pub right_context: usize,
    pub normalize_emg: Option<Normalize>,
    pub normalize_angles: Option<Normalize>,
    /// Which axis has channels, and joints.
    pub emg_layout: AxisLayout,
    pub angles_layout: AxisLayout,
    /// What recordings look like, and how their statistics are taken.
    pub recordings: SegmentSettings,
    /// `None`: one that this version does not know.
    pub architecture: Option<ModelType>,
    /// The cache that it was trained on.
    pub cache: Option<Key>,
    pub form: ExportedForm,
}

/// How an exported model takes its EMG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportedForm {
    /// A window at a time.
    Window,
    /// In chunks of so many rows, whose angles lag behind.
    Stream { chunk: usize, lag: usize },
}

/// Why a model's metadata cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("expected a model written by `emg-train export`, but its metadata `{name}` is missing")]
    Missing { name: &'static str },
    #[error("the model's metadata `{name}` is invalid: {message}")]
    Damaged { name: &'static str, message: String },
}

impl ModelMetadata {
    /// Names and values, in the order in which they are written, with a placeholder for the file's digest.
    pub fn entries(&self) -> Vec<(String, String)> {
        let channels: Vec<_> = (0..self.recordings.emg_channels).map(|i| format!("emg{i}")).collect();
        let normalize = |normalize: Option<Normalize>| normalize.map(|normalize| normalize.to_string());
        let (form, stream) = match self.form {
            ExportedForm::Window => ("window", None),
            ExportedForm::Stream { chunk, lag } => ("stream", Some((chunk, lag))),
        };
        let entries = [
            ("sample_rate", Some(self.recordings.sample_rate.to_string())),
            ("channels", Some(channels.join(","))),
            ("joints", Some(self.joints.join(","))),
            ("units", Some("radians".to_owned())),
            ("window", Some(self.window.to_string())),
            ("left_context", Some(self.left_context.to_string())),
            ("right_context", Some(self.right_context.to_string())),
            ("normalize_emg", normalize(self.normalize_emg)),
            ("normalize_angles", normalize(self.normalize_angles)),
            ("emg_layout", Some(self.emg_layout.to_string())),
            ("angles_layout", Some(self.angles_layout.to_string())),
            ("recordings", Some(serde_json::to_string(&self.recordings).expect("plain data serializes"))),
            ("architecture", self.architecture.map(|architecture| architecture.to_string())),
            ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("cache", self.cache.as_ref().map(ToString::to_string)),
            ("form", Some(form.to_owned())),
            ("chunk", stream.map(|(chunk, _)| chunk.to_string())),
            ("lag", stream.map(|(_, lag)| lag.to_string())),
            (MODEL_DIGEST, Some(model_placeholder())),
        ];
        entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// From a model's metadata, which `get` gives by name.
    ///
    /// # Errors
    /// Something is missing or not understood.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, MetadataError> {
        let needed = |name: &'static str| get(name).ok_or(MetadataError::Missing { name });
        let number = |name: &'static str| -> Result<usize, MetadataError> {
            let text = needed(name)?;
            text.parse().map_err(|_| MetadataError::Damaged { name, message: format!("{text} is not a number") })
        };
        let layout = |name: &str| get(name).and_then(|word| word.parse().ok()).unwrap_or(AxisLayout::ChannelsLast);
        let form = match get("form").as_deref() {
            Some("stream") => ExportedForm::Stream { chunk: number("chunk")?, lag: number("lag")? },
            _ => ExportedForm::Window,
        };
        let damaged = |name: &'static str| move |message: String| MetadataError::Damaged { name, message };
        Ok(Self {
            joints: needed("joints")?.split(',').map(str::to_owned).collect(),
            window: number("window")?,
            left_context: number("left_context")?,
            // Earlier versions wrote none.
            right_context: if get("right_context").is_some() { number("right_context")? } else { 0 },
            normalize_emg: get("normalize_emg").and_then(|word| word.parse().ok()),
            normalize_angles: get("normalize_angles").and_then(|word| word.parse().ok()),
            emg_layout: layout("emg_layout"),
            angles_layout: layout("angles_layout"),
            recordings: serde_json::from_str(&needed("recordings")?)
                .map_err(|error| damaged("recordings")(error.to_string()))?,
            architecture: needed("architecture")?.parse().ok(),
            cache: get("cache").and_then(|key| Key::parse(&key).ok()),
            form,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheSettings;
    use crate::config::Config;

    #[test]
    fn what_is_written_is_read_and_unknown_architectures_are_let_pass() {
        for form in [ExportedForm::Window, ExportedForm::Stream { chunk: 40, lag: 7 }] {
            let written = ModelMetadata {
                joints: vec!["a".into(), "b".into()],
                window: 200,
                left_context: 20,
                right_context: 3,
                normalize_emg: Some(Normalize::Recording),
                normalize_angles: None,
                emg_layout: AxisLayout::ChannelsFirst,
                angles_layout: AxisLayout::ChannelsLast,
                recordings: CacheSettings::new(&Config::default()).segment(),
                architecture: Some(ModelType::Lstm),
                cache: Some(Key::of(&1)),
                form,
            };
            let mut entries = written.entries();
            let read = |entries: &[(String, String)]| {
                ModelMetadata::read(|name| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
            };
            assert_eq!(read(&entries).unwrap(), written);
            entries.iter_mut().filter(|(name, _)| name == "architecture").for_each(|(_, word)| *word = "later".into());
            assert_eq!(read(&entries).unwrap(), ModelMetadata { architecture: None, ..written });
            entries.retain(|(name, _)| name != "window");
            assert!(read(&entries).unwrap_err().to_string().contains("`window`"));
        }
    }
}
