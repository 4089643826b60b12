//! environment.json of a run folder: the program, library and machine it was trained with.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::quantity;
use crate::files::{FileError, read_regular, replace_file};
use crate::train::Event;

/// The machine and the software of a training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub program: String,
    /// Provider and library.
    pub computes_on: String,
    pub host: String,
    pub system: String,
    pub cpu: String,
    pub cores: usize,
    pub memory: String,
    pub gpus: Vec<String>,
}

/// The value of the first line of `file` that begins with `name:`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gpus() -> Vec<String> {
    let folders = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    folders.filter_map(|folder| field(folder.path().join("information").to_str()?, "Model")).collect()
}

impl Environment {
    /// This machine, where a run computes on `provider`.
    pub fn current(provider: &str) -> Self {
        let names = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            program: format!("emg-train {}", env!("CARGO_PKG_VERSION")),
            computes_on: provider.to_owned(),
            host: text(names.nodename()),
            system: format!("{} {} {}", text(names.sysname()), text(names.release()), text(names.machine())),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory: kib.map_or_else(|| "unknown".into(), |kib| quantity::bytes(kib << 10)),
            gpus: gpus(),
        }
    }

    /// What a run folder says of where it was trained; `None` if it says nothing.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn of_run(folder: &Path) -> Result<Option<Self>, FileError> {
        let path = folder.join(FILE);
        let read = || match read_regular(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
        };
        read().map_err(FileError::at(&path))
    }

    /// Names and values.
    pub fn facts(&self) -> Vec<(String, String)> {
        let machine = format!("{}, {}", self.host, self.system);
        let cpu = format!("{}, {} cores, {}", self.cpu, self.cores, self.memory);
        let facts = [("trained by", &self.program), ("on", &self.computes_on), ("machine", &machine), ("cpu", &cpu)];
        let facts = facts.map(|(name, value)| (name.to_owned(), value.clone()));
        facts.into_iter().chain(self.gpus.iter().map(|gpu| ("gpu".to_owned(), gpu.clone()))).collect()
    }
}

const FILE: &str = "environment.json";

/// Writes environment.json when a training starts to report.
#[derive(Debug)]
pub(super) struct EnvironmentFile {
    folder: PathBuf,
    here: Option<Environment>,
}

impl EnvironmentFile {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), here: None }
    }

    /// Hears an event; gives a warning where the file cannot be written.
    pub(super) fn hear(&mut self, event: &Event<'_>) -> Option<String> {
        match event {
            Event::Started { provider, .. } => self.here = Some(Environment::current(provider)),
            // The folder is there once an epoch is done.
            Event::Epoch(_) => {
                let path = self.folder.join(FILE);
                let text = serde_json::to_vec_pretty(&self.here.take()?).expect("plain data serializes");
                return replace_file(&path, &text).err().map(|error| error.to_string());
            }
            _ => {}
        }
        None
    }
}
