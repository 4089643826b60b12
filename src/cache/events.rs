//! Progress events of builds and other long operations.

/// Receives the progress of a build. Called from several threads.
pub trait Events: Sync {
    /// `bytes` of `recordings` recordings are about to be read, to `purpose`.
    fn reading(&self, purpose: &str, recordings: usize, bytes: u64);
    /// This many more bytes of recordings are done.
    fn advanced(&self, bytes: u64);
}

/// Ignores all events.
pub struct NoEvents;

impl Events for NoEvents {
    fn reading(&self, _: &str, _: usize, _: u64) {}
    fn advanced(&self, _: u64) {}
}
