//! Signals that a training answers by saving where it stands.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use emg_pipeline::note;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// What signals asked for.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// To save a checkpoint and stop: SIGINT, SIGTERM, SIGHUP, and SIGUSR1 with --requeue.
    pub(crate) stop: Arc<AtomicBool>,
    /// To save a checkpoint and continue: SIGUSR1.
    pub(crate) save: Arc<AtomicBool>,
    /// To start the job again.
    requeue: Arc<AtomicBool>,
}

impl Signals {
    /// Listens to SIGUSR1, which would end the process otherwise.
    pub(crate) fn new(requeue: bool) -> io::Result<Self> {
        let signals = Self::default();
        if requeue {
            flag::register(SIGUSR1, Arc::clone(&signals.requeue))?;
            flag::register(SIGUSR1, Arc::clone(&signals.stop))?;
        } else {
            flag::register(SIGUSR1, Arc::clone(&signals.save))?;
        }
        Ok(signals)
    }

    /// Listens to signals that end a training, which is about to begin. A second SIGINT or SIGTERM ends the process at
    /// once.
    pub(crate) fn listen_to_stop(&self) -> io::Result<()> {
        // Not set by the others: the first of these saves, whatever came before.
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&self.stop))?;
        }
        // nohup means that a training outlives its terminal.
        if !is_ignored(SIGHUP) {
            flag::register(SIGHUP, Arc::clone(&self.stop))?;
        }
        Ok(())
    }

    /// Asks SLURM to start the job again, if SIGUSR1 came under --requeue.
    pub(crate) fn requeue(&self) {
        if !self.requeue.load(Ordering::Relaxed) {
            return;
        }
        let variable = |name| std::env::var(name).ok();
        let of_array = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
        let job = of_array.map(|(job, task)| format!("{job}_{task}")).or_else(|| variable("SLURM_JOB_ID"));
        let Some(job) = job else {
            note!("warning: --requeue: this is no SLURM job (SLURM_JOB_ID is not set), so nothing starts it again");
            return;
        };
        match Command::new("scontrol").args(["requeue", &job]).status() {
            Ok(status) if status.success() => note!("asked SLURM to start job {job} again"),
            Ok(status) => note!("warning: scontrol requeue {job}: {status}"),
            Err(error) => note!("warning: scontrol requeue {job}: {error}"),
        }
    }
}

/// Whether the process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
