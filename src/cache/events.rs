//! How a build, or anything else that takes long, tells how it goes on.

/// Hears how a build goes on. Called from several threads.
pub trait Events: Sync {
    /// `bytes` of `recordings` recordings are about to be read, to `purpose`.
    fn reading(&self, purpose: &str, recordings: usize, bytes: u64);
    /// So many bytes of recordings are done.
    fn advanced(&self, bytes: u64);
}

/// Hears nothing.
pub struct NoEvents;

impl Events for NoEvents {
    fn reading(&self, _: &str, _: usize, _: u64) {}
    fn advanced(&self, _: u64) {}
}
