//! Whether a file may change without its time stamps telling, because it was just written.

use std::time::{Duration, SystemTime};

use crate::recording::FileStamp;

/// A tick of the kernel's clock, in which a file's time stamps may stay the same while it changes.
const TICK: Duration = Duration::from_millis(20);
/// The same for exFAT, which has no finer time stamps.
const COARSE_TICK: Duration = Duration::from_millis(2100);

/// Whether a file's time stamps look like those of a file system that has whole seconds only. When it was modified is for
/// programs to say, which may not know it better.
fn is_coarse(stamp: &FileStamp) -> bool {
    stamp.changed_ns % 1_000_000_000 == 0
}

/// Time since the file last changed, by this machine's clock.
pub(super) fn age(stamp: &FileStamp) -> Duration {
    let changed = stamp.modified_ns.max(stamp.changed_ns);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let age = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - changed;
    u64::try_from(age).map_or(Duration::ZERO, Duration::from_nanos)
}

/// Whether a file of this age can no longer change without its time stamps telling (git's "racily clean" entries can),
/// once a tick has been waited for.
pub(super) fn is_settled(stamp: &FileStamp, age: Duration) -> bool {
    !is_coarse(stamp) || age >= COARSE_TICK
}

/// Waits for the tick to pass in which a file was just written.
pub(super) fn settle(stamp: &FileStamp) {
    let age = age(stamp);
    if !is_coarse(stamp) && age < TICK {
        std::thread::sleep(TICK - age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_unseen_is_not_settled() {
        let stamp = |modified_ns, changed_ns| FileStamp { bytes: 1, modified_ns, changed_ns, inode: 1 };
        let (fine, coarse) =
            (stamp(1_700_000_000_123_456_789, 1_700_000_000_123_456_789), stamp(7, 1_700_000_000_000_000_000));
        let unpacked = stamp(1_600_000_000_000_000_000, 1_700_000_000_123_456_789);
        assert!(is_settled(&fine, Duration::ZERO) && is_settled(&unpacked, Duration::ZERO));
        assert!(!is_settled(&coarse, Duration::from_secs(2)) && is_settled(&coarse, Duration::from_secs(3)));
        assert!(age(&coarse) > Duration::from_secs(1 << 20));
        // By a clock that is ahead of this machine's.
        assert_eq!(age(&stamp(i128::MAX, 0)), Duration::ZERO);
    }
}
