//! Large buffers that are used again: fresh ones cost a page fault for every 4 KiB, which is as slow as reading.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Buffers of one purpose, and so of about one size.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A buffer of `length` bytes, whatever they are.
    pub fn take(&self, length: usize) -> Buffer {
        let mut bytes = self.0.lock().map(|mut free| free.pop()).ok().flatten().unwrap_or_default();
        if bytes.len() < length {
            // What the old one holds need not be moved to the new one.
            bytes.clear();
            bytes.shrink_to_fit();
            bytes.resize(length, 0);
        }
        Buffer { bytes, length, pool: self.clone() }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(mut free) = self.pool.0.lock() {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_have_the_length_asked_for() {
        let pool = Pool::default();
        let first = pool.take(100);
        let place = first.as_ptr();
        assert_eq!(first.len(), 100);
        drop(first);
        let second = pool.take(50);
        assert_eq!((second.as_ptr(), second.len()), (place, 50));
        assert_eq!(pool.take(200).len(), 200);
    }
}
