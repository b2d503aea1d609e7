//! Buffers of one worker. A connection holds one only while bytes are in it.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Bytes in a buffer: a request head with cookies fits, as in HAProxy (`tune.bufsize`).
pub const BUFFER_SIZE: usize = 16 * 1024;
/// Spare buffers that a worker keeps: 1 MiB. More are made when needed and freed afterwards.
const SPARE: usize = 64;

/// A worker's buffers.
#[derive(Debug, Default)]
pub struct BufferPool {
    spare: RefCell<Vec<Box<[u8]>>>,
    held: Cell<usize>,
}

impl BufferPool {
    /// A buffer of [`BUFFER_SIZE`] bytes; its content is arbitrary.
    pub fn take(self: &Rc<Self>) -> Buffer {
        let spare = self.spare.borrow_mut().pop();
        self.held.set(self.held.get() + 1);
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice()),
            pool: Rc::clone(self),
        }
    }

    /// Buffers in use now.
    pub fn held(&self) -> usize {
        self.held.get()
    }
}

/// A buffer; goes back to its pool on drop.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    pool: Rc<BufferPool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.held.set(self.pool.held.get() - 1);
        let mut spare = self.pool.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
