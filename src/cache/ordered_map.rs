//! Work on all cores whose results are taken in order, with a bounded number of them waiting.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex};

/// Runs `produce(0..count)` on `threads` threads and `consume(i, result)` here, in order of i. At most `window`
/// results exist at once. Stops at the first error of `consume`. One thread does all by itself.
///
/// # Errors
/// That error.
pub(crate) fn ordered<T: Send, E>(
    count: usize,
    threads: usize,
    window: usize,
    produce: impl Fn(usize) -> T + Sync,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    if threads <= 1 {
        return (0..count).try_for_each(|i| consume(i, produce(i)));
    }
    let gate =
        Gate { state: Mutex::new(GateState { started: 0, consumed: 0, stopped: false }), opened: Condvar::new() };
    let window = window.max(1);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(window);
        let mut started = 0;
        for _ in 0..threads.min(count) {
            let (sender, gate, produce) = (sender.clone(), &gate, &produce);
            let work = move || {
                // If this panics, its result never comes: the others must not wait for it to be taken.
                let _opened = StopOnPanic(gate);
                while let Some(i) = gate.enter(count, window) {
                    // A closed channel means that the consumer stopped.
                    if sender.send((i, produce(i))).is_err() {
                        break;
                    }
                }
            };
            // Where the system has no more threads, fewer do the work.
            match std::thread::Builder::new().spawn_scoped(scope, work) {
                Ok(_) => started += 1,
                Err(_) => break,
            }
        }
        drop(sender);
        if started == 0 {
            return (0..count).try_for_each(|i| consume(i, produce(i)));
        }
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (i, result) in receiver {
            waiting.insert(i, result);
            while let Some(result) = waiting.remove(&next) {
                if let Err(error) = consume(next, result) {
                    gate.stop();
                    return Err(error);
                }
                next += 1;
                gate.leave();
            }
        }
        Ok(())
    })
}

struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

struct StopOnPanic<'a>(&'a Gate);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

struct GateState {
    started: usize,
    consumed: usize,
    stopped: bool,
}

impl Gate {
    /// The next item to work on, once fewer than `window` are under way.
    fn enter(&self, count: usize, window: usize) -> Option<usize> {
        let state = self.state.lock().expect("no thread panics while holding the gate");
        let waits =
            |state: &mut GateState| !state.stopped && state.started < count && state.started - state.consumed >= window;
        let mut state = self.opened.wait_while(state, waits).expect("no thread panics while holding the gate");
        if state.stopped || state.started == count {
            return None;
        }
        state.started += 1;
        Some(state.started - 1)
    }

    fn leave(&self) {
        self.state.lock().expect("no thread panics while holding the gate").consumed += 1;
        self.opened.notify_all();
    }

    fn stop(&self) {
        self.state.lock().expect("no thread panics while holding the gate").stopped = true;
        self.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn results_come_in_order_and_few_wait() {
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = Vec::new();
        let produce = |i: usize| {
            most.fetch_max(alive.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(std::time::Duration::from_micros((i * 37 % 5) as u64 * 100));
            i * i
        };
        let result: Result<(), ()> = ordered(200, 4, 6, produce, |i, square| {
            alive.fetch_sub(1, SeqCst);
            seen.push((i, square));
            Ok(())
        });
        result.unwrap();
        assert_eq!(seen, (0..200).map(|i| (i, i * i)).collect::<Vec<_>>());
        assert!(most.load(SeqCst) <= 6, "{most:?}");
    }

    #[test]
    fn a_panic_ends_it() {
        let produce = |i: usize| assert!(i != 7, "on purpose");
        let run = || ordered(1000, 2, 3, produce, |_, ()| Ok::<_, ()>(()));
        assert!(std::panic::catch_unwind(run).is_err());
    }

    #[test]
    fn an_error_stops_all() {
        let made = AtomicUsize::new(0);
        let produce = |i: usize| made.fetch_add(1, SeqCst) + i;
        let result = ordered(1_000_000, 3, 4, produce, |i, _| if i == 10 { Err(i) } else { Ok(()) });
        assert_eq!(result, Err(10));
        assert!(made.load(SeqCst) < 30);
        assert_eq!(ordered(0, 2, 2, |_| (), |_, ()| Err(())), Ok(()));
        assert_eq!(ordered(5, 1, 2, |i| i, |i, same| if i == 3 { Err(same) } else { Ok(()) }), Err(3));
    }
}
