//! Finds and loads the ONNX Runtime library.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::error::RuntimeError;

/// A place where the library may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub source: &'static str,
    pub path: PathBuf,
}

/// The library that this process uses.
#[derive(Debug, Clone)]
pub struct Library {
    pub source: &'static str,
    pub path: PathBuf,
    pub version: String,
    pub(super) environment: ort::environment::Environment,
}

static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// Existing libraries in the order in which they are tried, and all places looked at.
pub fn candidates(option: Option<&Path>) -> (Vec<Candidate>, Vec<String>) {
    // If the user names a library, only that one is tried, and an error says why it cannot be used.
    if let Some(path) = option {
        return (vec![Candidate { source: "--ort-lib", path: path.to_owned() }], Vec::new());
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return (vec![Candidate { source: "ORT_DYLIB_PATH", path: path.into() }], Vec::new());
    }
    let (mut found, mut looked) = (Vec::new(), Vec::new());
    let mut look = |source: &'static str, folder: PathBuf| {
        match library_in(&folder) {
            Some(path) if !found.iter().any(|other: &Candidate| other.path == path) => {
                found.push(Candidate { source, path });
            }
            _ => {}
        }
        looked.push(format!("{source}: {}", folder.display()));
    };
    let program = std::env::current_exe().ok();
    // Where pip has put this program, it has put the library, too.
    if let Some(prefix) = program.as_deref().and_then(|program| program.parent()?.parent()) {
        packages(prefix).into_iter().for_each(|folder| look("the program's own environment", folder));
    }
    let starts = [program, std::env::current_dir().ok().map(|folder| folder.join("."))];
    for start in starts.into_iter().flatten() {
        // A program in target/release belongs to the project three folders up; so does a shell inside it.
        for folder in start.ancestors().skip(1).take(5) {
            if folder.join(".tools/onnxruntime").is_dir() {
                look("the project's folder", folder.join(".tools/onnxruntime"));
            }
        }
    }
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty()) {
        packages(Path::new(&environment)).into_iter().for_each(|folder| look("the virtual environment", folder));
    }
    for folder in
        ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
    {
        look("the system", folder.into());
    }
    (found, looked)
}

/// Where below an installation's prefix pip puts ONNX Runtime.
fn packages(prefix: &Path) -> Vec<PathBuf> {
    let pythons = |lib: &str| std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten().map(|e| e.path());
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut pythons: Vec<_> = ["lib", "lib64"].iter().flat_map(|lib| pythons(lib)).filter(is_python).collect();
    pythons.sort();
    let site = pythons.iter().flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)));
    let all = site.chain([prefix.to_owned()]).map(|folder| folder.join("onnxruntime/capi"));
    all.filter(|folder| folder.is_dir()).collect()
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join("libonnxruntime.so");
    if plain.exists() {
        return Some(plain);
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so."))).max()
}

/// What [`load`] takes where it is given nothing.
static PREFERRED: OnceLock<PathBuf> = OnceLock::new();

/// Names the library that [`load`] takes where it is given none; the first call counts.
pub fn prefer(library: Option<&Path>) {
    library.into_iter().for_each(|path| drop(PREFERRED.set(path.to_owned())));
}

/// Loads ONNX Runtime, once per process: the library given, else the preferred one, else the first that is found.
///
/// # Errors
/// None found, or the one found cannot be used.
pub fn load(option: Option<&Path>) -> Result<Library, RuntimeError> {
    let mut loaded = LOADED.lock().expect("loading does not panic");
    if let Some(library) = &*loaded {
        return Ok(library.clone());
    }
    let (found, looked) = candidates(option.or(PREFERRED.get().map(PathBuf::as_path)));
    let Candidate { source, path } = found.into_iter().next().ok_or(RuntimeError::NoLibrary { looked })?;
    let path = std::path::absolute(&path).unwrap_or(path);
    let load_error = |message: String| RuntimeError::Load { path: path.clone(), message };
    let builder = ort::init_from(&path).map_err(|error| load_error(error.to_string()))?;
    let environment = builder.with_name("emg-train").build().map_err(|error| load_error(error.message().to_owned()))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    let library = Library { source, version: version(&path), path, environment };
    *loaded = Some(library.clone());
    Ok(library)
}

/// The version according to the library's file name or build information.
fn version(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_prefix("libonnxruntime.so.") {
        Some(version) if version.contains('.') => version.to_owned(),
        // `ort` refuses libraries older than the API it was built for; a renamed newer one only tells its commit.
        _ => format!("1.{} or newer ({})", ort::MINOR_VERSION, ort::info()),
    }
}
