//! The HDF5 library in child processes: a file that makes it crash, hang or ask for all memory fails alone.
//!
//! A child takes requests on its standard input, one JSON document a line, and answers each on its standard output: a
//! header with one JSON line; rows with frames (length as little-endian u32, then whole rows), an empty one, and one
//! JSON line. Children are kept and used again, so that a request costs microseconds.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::driver;
use super::error::RecordingError;
use super::library::{self, FRAME_BYTES};
use super::place::Place;
use super::rows::Rows;
use super::table::{Table, TableLayout};

/// The hidden argument that makes a program a worker.
pub const WORKER_ARGUMENT: &str = "hdf5-worker";
/// How long a child may compute before it says something: no header or frame takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may wait for storage.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Address space of a child: a chunk of 1 GiB, decoded, and the library's caches fit in.
const MEMORY: u64 = 6 << 30;
/// What a Rust program that panics exits with.
const PANICKED: i32 = 101;
/// Longest answer line; a chunk table of ten million chunks is shorter.
const MAX_LINE: u64 = 1 << 30;
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Whether the child is well.
    Greeting,
    /// The header of a recording of so many bytes.
    Header { place: Place, layout: TableLayout, bytes: u64 },
    /// Rows of a dataset that was described before.
    Rows { place: Place, chunk_cache: usize, dataset: Dataset, range: Range<u64> },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Table(Box<Table>),
    Rows,
    Failed(Failure),
}

/// A [`RecordingError`] without its path.
#[derive(Debug, Serialize, Deserialize)]
enum Failure {
    Io { code: Option<i32>, message: String },
    Hdf5(String),
    Layout { what: String, expected: String, found: String },
    Damaged(String),
    Changed,
    Predicted,
    Foreign(String),
    Locked,
    MissingFilter { name: String, id: i32 },
}

impl From<RecordingError> for Failure {
    fn from(error: RecordingError) -> Self {
        match error {
            RecordingError::Io { source, .. } => Self::Io { code: source.raw_os_error(), message: source.to_string() },
            RecordingError::Hdf5 { message, .. } => Self::Hdf5(message),
            RecordingError::Layout { what, expected, found, .. } => Self::Layout { what, expected, found },
            RecordingError::Changed { .. } => Self::Changed,
            RecordingError::Predicted { .. } => Self::Predicted,
            RecordingError::Foreign { message, .. } => Self::Foreign(message),
            RecordingError::Locked { .. } => Self::Locked,
            RecordingError::MissingFilter { name, id, .. } => Self::MissingFilter { name, id },
            RecordingError::Damaged { message, .. } => Self::Damaged(message),
            // Nothing else comes of reading; if it did, it would be no fact about the file.
            other => Self::Io { code: None, message: other.to_string() },
        }
    }
}

impl Failure {
    fn of(self, path: &Path) -> RecordingError {
        let path = path.to_owned();
        match self {
            Self::Io { code, message } => {
                let source = code.map_or_else(|| std::io::Error::other(message), std::io::Error::from_raw_os_error);
                RecordingError::Io { path, source }
            }
            Self::Hdf5(message) => RecordingError::Hdf5 { path, message },
            Self::Layout { what, expected, found } => RecordingError::Layout { path, what, expected, found },
            Self::Damaged(message) => RecordingError::Damaged { path, message },
            Self::Changed => RecordingError::Changed { path },
            Self::Predicted => RecordingError::Predicted { path },
            Self::Foreign(message) => RecordingError::Foreign { path, message },
            Self::Locked => RecordingError::Locked { path },
            Self::MissingFilter { name, id } => RecordingError::MissingFilter { path, name, id },
        }
    }
}

/// How the HDF5 library is reached.
#[derive(Debug, Clone, Default)]
pub enum Hdf5 {
    /// In this process: for files that this process wrote, and tests.
    #[default]
    InProcess,
    /// In children.
    Workers(Arc<Workers>),
}

impl Hdf5 {
    /// Children that run `program` with [`WORKER_ARGUMENT`], as many as are asked at once.
    pub fn workers(program: PathBuf) -> Self {
        Self::Workers(Arc::new(Workers { program, idle: Mutex::new(Vec::new()) }))
    }

    /// Reads a recording's header.
    pub(crate) fn table(&self, place: &Place, layout: &TableLayout, bytes: u64) -> Result<Table, RecordingError> {
        let table = match self {
            Self::InProcess => Table::open(place, layout, bytes)?,
            Self::Workers(workers) => workers.table(place, layout, bytes)?,
        };
        table.check(&place.label(), bytes)?;
        Ok(table)
    }

    /// Calls `f` with blocks of a dataset's rows [range), in order, in its own row layout in native byte order.
    pub(crate) fn visit(
        &self,
        place: &Place,
        chunk_cache: usize,
        dataset: &Dataset,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
    ) -> Result<(), RecordingError> {
        match self {
            Self::InProcess => {
                driver::watched(&place.label(), || library::visit(place, chunk_cache, dataset, range, f))
            }
            Self::Workers(workers) => workers.visit(place, chunk_cache, dataset, range, f),
        }
    }
}

/// Children at rest.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    idle: Mutex<Vec<Worker>>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<Timed>,
}

/// Reads what a child says, for as long as it says something in time.
#[derive(Debug)]
struct Timed {
    output: ChildStdout,
    pid: u32,
    /// When the child was last heard of, and what it had computed by then.
    heard: Instant,
    computed: Duration,
}

impl Timed {
    fn hear(&mut self) {
        (self.heard, self.computed) = (Instant::now(), computed(self.pid));
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        loop {
            let mut fds = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) => {
                    let computed = computed(self.pid).saturating_sub(self.computed);
                    if computed > PATIENCE {
                        return Err(std::io::ErrorKind::Deadlock.into());
                    }
                    if self.heard.elapsed() > LONG_PATIENCE {
                        return Err(std::io::ErrorKind::TimedOut.into());
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.hear();
                    return self.output.read(buffer);
                }
            }
        }
    }
}

/// Processor time of a process (proc_pid_stat(5): utime and stime in ticks of 10 ms); zero where it is not told.
fn computed(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// What a worker could not do, beside what it says itself.
enum Broken {
    /// It computes without end.
    Endless,
    /// It waits without end.
    Silent,
    Dead,
    Nonsense(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::Deadlock => Self::Endless,
            std::io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Dead,
        }
    }
}

impl Workers {
    fn table(&self, place: &Place, layout: &TableLayout, bytes: u64) -> Result<Table, RecordingError> {
        let request = Request::Header { place: place.clone(), layout: layout.clone(), bytes };
        self.ask(place, &request, |worker| match worker.answer()? {
            Answer::Table(table) => Ok(Ok(*table)),
            Answer::Failed(failure) => Ok(Err(failure.of(&place.label()))),
            Answer::Rows => Err(Broken::Nonsense("an end of rows that nobody asked for".into())),
        })
    }

    fn visit(
        &self,
        place: &Place,
        chunk_cache: usize,
        dataset: &Dataset,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
    ) -> Result<(), RecordingError> {
        let request =
            Request::Rows { place: place.clone(), chunk_cache, dataset: dataset.clone(), range: range.clone() };
        self.ask(place, &request, |worker| {
            let (mut first, mut frame, mut result) = (range.start, Vec::new(), Ok(()));
            while worker.frame(&mut frame)? {
                let rows = (frame.len() / dataset.row_bytes) as u64;
                if frame.len() % dataset.row_bytes != 0 || first + rows > range.end {
                    return Err(Broken::Nonsense(format!("{} bytes of rows after row {first}", frame.len())));
                }
                // What is left is taken in, so that the child can be used again.
                if result.is_ok() {
                    result = f(first, Rows::new(&frame, dataset.row_bytes));
                }
                first += rows;
            }
            match worker.answer()? {
                Answer::Rows if first == range.end => Ok(result),
                Answer::Rows => Ok(Err(RecordingError::Changed { path: place.label() })),
                Answer::Failed(failure) => Ok(result.and(Err(failure.of(&place.label())))),
                Answer::Table(_) => Err(Broken::Nonsense("a header that nobody asked for".into())),
            }
        })
    }

    /// Sends a request to a child and takes its answer. A child that breaks is ended, and told of.
    fn ask<T>(
        &self,
        place: &Place,
        request: &Request,
        take: impl FnOnce(&mut Worker) -> Result<Result<T, RecordingError>, Broken>,
    ) -> Result<T, RecordingError> {
        let idle = self.idle.lock().expect("no thread panics while it holds the workers").pop();
        // A child that served before may be broken by what it served: it must answer a greeting first.
        let mut worker = match idle.and_then(Worker::greeted) {
            Some(worker) => worker,
            None => self.start()?,
        };
        match worker.send(request).and_then(|()| take(&mut worker)) {
            Ok(result) => {
                // One that met a broken file is not asked for another.
                let sound = !matches!(
                    result,
                    Err(RecordingError::Hdf5 { .. } | RecordingError::Damaged { .. } | RecordingError::Io { .. })
                );
                if sound {
                    self.idle.lock().expect("no thread panics while it holds the workers").push(worker);
                }
                result
            }
            Err(broken) => {
                let (message, by_file) = worker.end(&broken);
                Err(RecordingError::Crashed { path: place.label(), message, by_file })
            }
        }
    }

    fn start(&self) -> Result<Worker, RecordingError> {
        let io = |error| RecordingError::io(&self.program, error);
        let mut child = Command::new(&self.program)
            .arg(WORKER_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        let missing = || io(std::io::Error::other("a pipe is missing"));
        let (input, output) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        let timed = Timed { output, pid: child.id(), heard: Instant::now(), computed: Duration::ZERO };
        Ok(Worker { child, input, output: BufReader::new(timed) })
    }
}

impl Worker {
    /// The worker, if it answers.
    fn greeted(mut self) -> Option<Self> {
        let answer = self.send(&Request::Greeting).and_then(|()| self.answer());
        matches!(answer, Ok(Answer::Rows)).then_some(self)
    }

    fn send(&mut self, request: &Request) -> Result<(), Broken> {
        let mut line = serde_json::to_vec(request).map_err(|error| Broken::Nonsense(error.to_string()))?;
        line.push(b'\n');
        self.output.get_mut().hear();
        self.input.write_all(&line).map_err(|_| Broken::Dead)
    }

    fn answer(&mut self) -> Result<Answer, Broken> {
        let mut line = Vec::new();
        (&mut self.output).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            let endless = line.len() as u64 == MAX_LINE;
            return Err(if endless { Broken::Nonsense("a header of over 1 GiB".into()) } else { Broken::Dead });
        }
        serde_json::from_slice(&line).map_err(|error| Broken::Nonsense(error.to_string()))
    }

    /// Reads one frame; false after the last.
    fn frame(&mut self, frame: &mut Vec<u8>) -> Result<bool, Broken> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES.max(super::dataset::MAX_ROW_BYTES) {
            return Err(Broken::Nonsense(format!("a frame of {length} bytes")));
        }
        frame.resize(length, 0);
        self.output.read_exact(frame)?;
        Ok(length > 0)
    }

    /// Ends the child and says what was wrong with it, and whether what it read is to blame. It is not for a signal that
    /// others send, nor for an exit or an abort, which want of memory causes.
    fn end(mut self, broken: &Broken) -> (String, bool) {
        // One that is dead may take a moment to be seen to be.
        let mut status = None;
        for _ in 0..200 {
            status = self.child.try_wait().ok().flatten();
            if status.is_some() || !matches!(broken, Broken::Dead) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match broken {
            Broken::Endless => ("the HDF5 library does not finish reading it".into(), true),
            Broken::Silent => ("its storage does not respond".into(), false),
            Broken::Nonsense(what) => (format!("the process that reads it sent an invalid answer: {what}"), false),
            Broken::Dead => match status.map(|status| (status.signal(), status.code())) {
                Some((Some(signal), _)) => {
                    let by_file = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL].contains(&signal);
                    let message = if by_file {
                        format!("it makes the HDF5 library crash (signal {signal})")
                    } else {
                        format!("the process that reads it was ended (signal {signal}), perhaps for want of memory")
                    };
                    (message, by_file)
                }
                Some((_, Some(PANICKED))) => ("it makes this program's own reader panic".into(), false),
                _ => ("the process that reads it exited unexpectedly".into(), false),
            },
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a worker process does: answers requests until its input ends.
///
/// # Errors
/// Its input or output fails, which ends it.
pub fn serve() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    super::table::silence_hdf5_errors();
    // Where it cannot be set, files are still read apart.
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    end_with_parent();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = match &request {
            Request::Greeting => Answer::Rows,
            Request::Header { place, layout, bytes } => header(place, layout, *bytes),
            Request::Rows { place, chunk_cache, dataset, range } => {
                rows(place, *chunk_cache, dataset, range.clone(), &mut output)?
            }
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()?;
    }
    Ok(())
}

/// Ends this process when its parent is gone, whatever the library is doing: nobody else would.
fn end_with_parent() {
    let parent = rustix::process::getppid();
    // Without the thread, the end of its input ends it all the same, once it looks for the next request.
    let _ = std::thread::Builder::new().spawn(move || {
        while rustix::process::getppid() == parent {
            std::thread::sleep(Duration::from_secs(1));
        }
        std::process::exit(1);
    });
}

fn header(place: &Place, layout: &TableLayout, bytes: u64) -> Answer {
    match Table::open(place, layout, bytes) {
        Ok(table) => Answer::Table(Box::new(table)),
        Err(error) => Answer::Failed(error.into()),
    }
}

fn rows(
    place: &Place,
    chunk_cache: usize,
    dataset: &Dataset,
    range: Range<u64>,
    output: &mut impl Write,
) -> std::io::Result<Answer> {
    let mut broken = None;
    let mut send = |_, rows: Rows<'_>| {
        let bytes = rows.bytes();
        let sent = output.write_all(&(bytes.len() as u32).to_le_bytes()).and_then(|()| output.write_all(bytes));
        sent.map_err(|error| {
            broken = Some(error);
            RecordingError::Changed { path: place.label() }
        })
    };
    let result = driver::watched(&place.label(), || library::visit(place, chunk_cache, dataset, range, &mut send));
    if let Some(error) = broken {
        return Err(error);
    }
    output.write_all(&0u32.to_le_bytes())?;
    Ok(match result {
        Ok(()) => Answer::Rows,
        Err(error) => Answer::Failed(error.into()),
    })
}
