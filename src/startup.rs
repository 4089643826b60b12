//! What a program asks of the system when it starts: threads and file descriptors, as far as it gets them.

use std::sync::Once;
use std::sync::mpsc::channel;
use std::thread::Builder;

use rayon::{ThreadBuilder, ThreadPoolBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Prepares the process for work.
pub fn prepare_process() {
    raise_descriptor_limit();
    start_threads();
}

/// Allows as many open files as the system lets a process have by itself, up to what no store needs.
fn raise_descriptor_limit() {
    const ENOUGH: u64 = 1 << 16;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Starts a thread per processor, or as many as the system gives; if it gives none, the calling thread does all the work.
/// To be called before any parallel work; later calls change nothing.
pub fn start_threads() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Rayon waits for all threads that it asked for, and panics later where one could not be started. So they are
        // started first, and each waits for its work.
        let named = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
        let wanted = named.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
        let mut carriers = Vec::new();
        for _ in 0..wanted {
            let (sender, receiver) = channel::<ThreadBuilder>();
            let carry = move || receiver.into_iter().for_each(ThreadBuilder::run);
            match Builder::new().spawn(carry) {
                Ok(_) => carriers.push(sender),
                Err(_) => break,
            }
        }
        let pool = ThreadPoolBuilder::new().num_threads(carriers.len().max(1));
        let started = match carriers.len() {
            0 => pool.use_current_thread().build_global(),
            _ => pool
                .spawn_handler(move |thread| {
                    let carrier = carriers.pop().expect("one for each thread of the pool");
                    carrier.send(thread).map_err(|_| std::io::Error::other("a thread ended at once"))
                })
                .build_global(),
        };
        if let Err(error) = started {
            tracing::error!("threads cannot be started: {error}");
        }
    });
}

/// Bytes of memory that this process may have: what the machine has, or less where it is limited (`ulimit -v`,
/// a container).
pub(crate) fn memory_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let total = total.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10);
    let group =
        ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(std::fs::read_to_string);
    let group = group.into_iter().flatten().filter_map(|text| text.trim().parse::<u64>().ok()).min();
    let limits = [getrlimit(Resource::As).current, group];
    limits.into_iter().flatten().fold(total, u64::min)
}
