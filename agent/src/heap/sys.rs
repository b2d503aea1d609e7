//! The allocator itself. See the module above for why.
#![allow(unsafe_code)]

use super::{CHUNK, SIZES, STOCKS, UNIT, number_of};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The allocator of the program.
pub(crate) struct Heap([Stock; STOCKS]);

/// Blocks of some threads, on cache lines of their own.
#[repr(align(128))]
struct Stock(Mutex<Blocks>);

struct Blocks {
    /// Blocks that were given back, by size.
    free: [Option<NonNull<Free>>; SIZES],
    /// What of the last chunk was not handed out yet.
    rest: *mut u8,
    left: usize,
}

/// A block that nobody uses.
struct Free {
    next: Option<NonNull<Self>>,
}

// SAFETY: what the pointers lead to belongs to the stock alone, and is touched under its lock.
// JUSTIFICATION: raw pointers say nothing of who owns what they lead to.
unsafe impl Send for Blocks {}

impl Blocks {
    const fn new() -> Self {
        Self {
            free: [None; SIZES],
            rest: null_mut(),
            left: 0,
        }
    }

    /// A block of the size; null when memory has run out.
    fn take(&mut self, size: usize) -> *mut u8 {
        if let Some(slot) = self.free.get_mut(size)
            && let Some(block) = *slot
        {
            // SAFETY: who gave the block back wrote a `Free` into it, and it is aligned for one.
            *slot = unsafe { block.as_ref() }.next;
            return block.as_ptr().cast();
        }
        let bytes = (size + 1) * UNIT;
        if self.left < bytes {
            let chunk = Layout::new::<[u8; CHUNK]>().align_to(UNIT);
            // SAFETY: the layout's size is not zero.
            let Some(rest) = chunk.ok().map(|layout| unsafe { System.alloc(layout) }) else {
                return null_mut();
            };
            if rest.is_null() {
                return rest;
            }
            // Less than a block is left of the old one: it is not worth the keeping.
            (self.rest, self.left) = (rest, CHUNK);
        }
        let block = self.rest;
        self.left -= bytes;
        // SAFETY: `left` bytes lie behind `rest`, and `bytes` is no more than that.
        self.rest = unsafe { block.add(bytes) };
        block
    }

    /// Keeps a block of the size for the next who wants one.
    ///
    /// # Safety
    /// The block came from [`Self::take`] with this size, of this or another stock, and nobody uses it any more.
    unsafe fn give(&mut self, block: *mut u8, size: usize) {
        let (Some(block), Some(slot)) =
            (NonNull::new(block.cast::<Free>()), self.free.get_mut(size))
        else {
            return;
        };
        // SAFETY: the block is at least `UNIT` bytes long, aligned to as many, and ours.
        unsafe { block.write(Free { next: *slot }) };
        *slot = Some(block);
    }
}

impl Heap {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self([const { Stock(Mutex::new(Blocks::new())) }; STOCKS])
    }

    /// The stock of this thread. The lock allocates nothing, and nothing panics under it.
    fn stock(&self) -> MutexGuard<'_, Blocks> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            /// Plus one. Without a destructor: it can be used as long as the thread runs.
            static OWN: Cell<usize> = const { Cell::new(0) };
        }
        let own = OWN.get().checked_sub(1).unwrap_or_else(|| {
            let own = NEXT.fetch_add(1, Relaxed) % STOCKS;
            OWN.set(own + 1);
            own
        });
        self.0[own].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: a block goes back to where it came from, as both are decided by its layout, which the caller must give
// unchanged. Blocks of ours are as long as their size says, begin at multiples of `UNIT` and are in the hands
// of one owner at a time, since a stock is used under its lock. The rest is passed on as it came.
// JUSTIFICATION: there is no safe way to be the program's allocator.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match number_of(layout) {
            Some(size) => self.stock().take(size),
            // SAFETY: as the caller promised.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match number_of(layout) {
            // SAFETY: the caller gives back what it got for this layout.
            Some(size) => unsafe { self.stock().give(block, size) },
            // SAFETY: as the caller promised.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(size) = number_of(layout) else {
            // SAFETY: as the caller promised.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let block = self.stock().take(size);
        if !block.is_null() {
            // SAFETY: the block is at least as long as its layout.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promised that `bytes` rounded up to the alignment is a valid size.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (number_of(layout), number_of(wanted)) {
            // SAFETY: as the caller promised.
            (None, None) => unsafe { System.realloc(block, layout, bytes) },
            (old, new) if old == new => block,
            // SAFETY: both blocks are as long as their layouts, and the new one is nobody else's.
            _ => unsafe {
                let to = self.alloc(wanted);
                if !to.is_null() {
                    to.copy_from_nonoverlapping(block, layout.size().min(bytes));
                    self.dealloc(block, layout);
                }
                to
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, UNIT).unwrap()
    }

    /// Whether a block keeps its content while it takes these sizes one after the other.
    pub(in super::super) fn grown(heap: &Heap, sizes: &[usize]) -> bool {
        let mut now = sizes[0];
        // SAFETY: sizes are not zero, each block is used within its size and given back once.
        unsafe {
            let mut block = heap.alloc(layout(now));
            block.write_bytes(7, now);
            let mut kept = true;
            for size in &sizes[1..] {
                block = heap.realloc(block, layout(now), *size);
                let content = std::slice::from_raw_parts(block, now.min(*size));
                kept &= block.addr().is_multiple_of(UNIT) && content.iter().all(|b| *b == 7);
                now = *size;
                block.write_bytes(7, now);
            }
            heap.dealloc(block, layout(now));
            kept
        }
    }

    /// Whether a block that was used before is zero when that is asked for.
    pub(in super::super) fn zeroed(heap: &Heap, bytes: usize) -> bool {
        // SAFETY: as in `grown`.
        unsafe {
            let block = heap.alloc(layout(bytes));
            block.write_bytes(7, bytes);
            heap.dealloc(block, layout(bytes));
            let again = heap.alloc_zeroed(layout(bytes));
            let zeros = std::slice::from_raw_parts(again, bytes)
                .iter()
                .all(|b| *b == 0);
            heap.dealloc(again, layout(bytes));
            zeros && again == block
        }
    }

    /// Whether the last block that was given back is the first that is taken.
    pub(in super::super) fn reused(heap: &Heap, bytes: usize) -> bool {
        // SAFETY: as in `grown`; blocks are only compared.
        unsafe {
            let (a, b) = (heap.alloc(layout(bytes)), heap.alloc(layout(bytes)));
            heap.dealloc(a, layout(bytes));
            heap.dealloc(b, layout(bytes));
            let (c, d) = (heap.alloc(layout(bytes)), heap.alloc(layout(bytes)));
            heap.dealloc(c, layout(bytes));
            heap.dealloc(d, layout(bytes));
            (c, d) == (b, a)
        }
    }

    /// Whether so many blocks of whole units lie side by side.
    pub(in super::super) fn packed(heap: &Heap, bytes: usize, count: usize) -> bool {
        // SAFETY: as in `grown`; blocks are only compared.
        unsafe {
            let blocks: Vec<_> = (0..count)
                .map(|_| heap.alloc(layout(bytes)).addr())
                .collect();
            blocks.windows(2).all(|pair| pair[1] == pair[0] + bytes)
        }
    }
}
