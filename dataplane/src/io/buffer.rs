//! Buffers of one worker. A connection holds one only while bytes are in it.
//!
//! Each is a mapping of its own and thus begins with a page of its own: one that holds half a request head
//! costs the 4 KiB that the head lies in. From the heap it would share pages with what lies around it, and
//! cost two or three.

use memmap2::MmapMut;
use std::alloc::{Layout, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Bytes in a buffer: a request head with cookies fits, as in HAProxy (`tune.bufsize`).
pub const BUFFER_SIZE: usize = 16 * 1024;
/// Spare buffers that a worker keeps for good: 1 MiB.
const SPARE: usize = 64;
/// Spare buffers that it keeps after a crowd, until [`BufferPool::trim`]: mapping one anew costs more than
/// what is read into it.
const MOST_SPARE: usize = 1024;

/// A worker's buffers.
#[derive(Debug, Default)]
pub struct BufferPool {
    spare: RefCell<Vec<MmapMut>>,
    held: Cell<usize>,
    /// The fewest that were spare at any time since the last trim: so many were not needed.
    fewest: Cell<usize>,
}

impl BufferPool {
    /// A buffer of [`BUFFER_SIZE`] bytes; its content is arbitrary.
    pub fn take(self: &Rc<Self>) -> Buffer {
        let mut all = self.spare.borrow_mut();
        let spare = all.pop();
        self.fewest.set(self.fewest.get().min(all.len()));
        self.held.set(self.held.get() + 1);
        Buffer {
            bytes: Some(spare.unwrap_or_else(map)),
            pool: Rc::clone(self),
        }
    }

    /// Buffers in use now.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Gives back to the system half of what nobody needed since the last call, all but [`SPARE`].
    pub(crate) fn trim(&self) {
        let mut spare = self.spare.borrow_mut();
        let beyond = spare.len().saturating_sub(SPARE);
        let needless = self.fewest.get().min(beyond);
        let left = spare.len() - needless.div_ceil(2);
        spare.truncate(left);
        self.fewest.set(left);
    }
}

/// Memory that is not resident before it is written to. Without any there is no way on, as with the heap.
fn map() -> MmapMut {
    MmapMut::map_anon(BUFFER_SIZE)
        .unwrap_or_else(|_| handle_alloc_error(Layout::new::<[u8; BUFFER_SIZE]>()))
}

/// A buffer; goes back to its pool on drop.
#[derive(Debug)]
pub struct Buffer {
    /// None only while it is dropped.
    bytes: Option<MmapMut>,
    pool: Rc<BufferPool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.held.set(self.pool.held.get() - 1);
        let mut spare = self.pool.spare.borrow_mut();
        if spare.len() < MOST_SPARE {
            spare.extend(self.bytes.take());
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_leaves_by_and_by() {
        let pool = Rc::new(BufferPool::default());
        let mut crowd: Vec<_> = (0..MOST_SPARE + 10).map(|_| pool.take()).collect();
        for (n, buffer) in crowd.iter_mut().enumerate() {
            assert_eq!(buffer.len(), BUFFER_SIZE);
            assert_eq!(buffer.as_ptr().align_offset(4096), 0, "a page of its own");
            buffer[BUFFER_SIZE - 1] = u8::try_from(n % 256).unwrap();
        }
        assert!((0..256).all(|n| usize::from(crowd[n][BUFFER_SIZE - 1]) == n));
        assert_eq!(pool.held(), MOST_SPARE + 10);
        drop(crowd);
        assert_eq!((pool.held(), pool.spare.borrow().len()), (0, MOST_SPARE));
        let spare = || pool.spare.borrow().len();
        pool.trim();
        assert_eq!(spare(), MOST_SPARE, "all were needed");
        drop(
            (0..MOST_SPARE - 100)
                .map(|_| pool.take())
                .collect::<Vec<_>>(),
        );
        pool.trim();
        assert_eq!(spare(), MOST_SPARE - 50, "a hundred were not");
        for _ in 0..20 {
            pool.trim();
        }
        assert_eq!(spare(), SPARE);
    }
}
