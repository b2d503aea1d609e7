//! The program's heap: that of the C library, and blocks of our own for what must be aligned to pairs of
//! cache lines.
//!
//! tokio aligns each task and each registered socket to 128 bytes. glibc cuts such a block out of one that is
//! 160 bytes larger and keeps what is left of it as crumbs that nothing else fits into: of 1,471 bytes for an
//! idle keep-alive connection 500 were crumbs. Here such blocks lie side by side, are never larger than what
//! was asked for rounded up to 128, and are taken and given back in a few instructions. Blocks that were given
//! back are kept for the next ones of their size: the room of a crowd of connections stays, for the next crowd.

mod sys;

pub(crate) use sys::Heap;

use std::alloc::Layout;

/// Alignment of the blocks that are ours, and what their sizes are multiples of.
const UNIT: usize = 128;
/// Sizes of blocks that are ours: up to two kibibytes, more than the task of any connection needs.
const SIZES: usize = 16;
/// Bytes that are taken from the C library at once: less than it would map, large enough that it is seldom
/// asked.
const CHUNK: usize = 64 * 1024;
/// Stocks that threads are spread over, so that workers do not wait for each other: more than there are
/// workers on common machines.
const STOCKS: usize = 16;

/// Which of our sizes, counted from zero, holds `layout`; none is for the C library.
fn number_of(layout: Layout) -> Option<usize> {
    let size = layout.size().div_ceil(UNIT).saturating_sub(1);
    (layout.align() == UNIT && size < SIZES).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, UNIT).unwrap()
    }

    #[test]
    fn only_blocks_of_whole_pairs_of_cache_lines_are_ours() {
        for (bytes, size) in [
            (1, 0),
            (128, 0),
            (129, 1),
            (256, 1),
            (1_024, 7),
            (2_048, 15),
        ] {
            assert_eq!(number_of(layout(bytes)), Some(size), "{bytes}");
        }
        assert_eq!(number_of(layout(2_049)), None);
        for align in [1, 8, 16, 64, 256, 4_096] {
            let other = Layout::from_size_align(256, align).unwrap();
            assert_eq!(number_of(other), None, "{align}");
        }
    }

    /// What is asked of the global allocator by safe code, which is this one in this program.
    #[derive(Clone, PartialEq, Debug)]
    #[repr(align(128))]
    struct Aligned<const N: usize>([u8; N]);

    fn fill<const N: usize>(count: usize) -> Vec<Box<Aligned<N>>> {
        let byte = |n: usize| u8::try_from(n % 251).unwrap();
        (0..count)
            .map(|n| Box::new(Aligned([byte(n); N])))
            .collect()
    }

    fn check<const N: usize>(blocks: &[Box<Aligned<N>>]) {
        let mut places = HashSet::new();
        for (n, block) in blocks.iter().enumerate() {
            let at = std::ptr::from_ref(&**block).addr();
            assert!(at.is_multiple_of(UNIT) && places.insert(at));
            assert!(block.0.iter().all(|byte| usize::from(*byte) == n % 251));
        }
        // None lies in another.
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_unstable();
        assert!(
            places
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= size_of::<Aligned<N>>())
        );
    }

    #[test]
    fn blocks_are_aligned_apart_and_keep_what_is_written() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let (mut small, mut large) = (fill::<100>(2_000), fill::<900>(300));
                    for _ in 0..20 {
                        check(&small);
                        check(&large);
                        small.truncate(700);
                        large.truncate(100);
                        small = fill::<100>(1_500);
                        large = fill::<900>(200);
                    }
                    (small, large)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            // Given back by another thread than the one that took them.
            let (small, large) = thread.join().unwrap();
            check(&small);
            check(&large);
            all.push((small, large));
        }
    }

    #[test]
    fn blocks_grow_shrink_and_begin_as_zeros_when_asked() {
        let heap = Heap::new();
        let ours = sys::tests::grown(
            &heap,
            &[1, 128, 129, 1_024, 2_048, 2_049, 5_000, 1_024, 300, 2],
        );
        assert!(ours, "content is kept from size to size");
        assert!(
            sys::tests::zeroed(&heap, 300),
            "a block that was used before"
        );
    }

    #[test]
    fn what_is_given_back_is_taken_again() {
        let heap = Heap::new();
        assert!(sys::tests::reused(&heap, 200));
        assert!(sys::tests::packed(&heap, 256, 100));
    }
}
