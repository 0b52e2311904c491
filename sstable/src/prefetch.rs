//! Asking the processor for memory before it is needed.

/// The size of a cache line, on the machines that have one of this size. Elsewhere a few requests
/// are made twice.
const LINE: usize = 64;

/// Asks for the first `len` bytes of `bytes` to be brought into the cache. Nothing waits for them.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], len: usize) {
    for line in bytes[..len.min(bytes.len())].chunks(LINE) {
        prefetch_line(line);
    }
}

/// As [`prefetch`], for pieces of up to a page that are asked for one after the other and adjoin, so
/// that the line where one ends is that where another begins.
#[inline(always)]
pub(crate) fn prefetch_next(bytes: &[u8], len: usize) {
    prefetch_line(bytes);
    if let Some(second) = bytes.get(LINE..)
        && len > LINE
    {
        prefetch_line(second);
        if len > 2 * LINE {
            prefetch(second, len.min(4096));
        }
    }
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn prefetch_line(line: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing as far as the program can tell, and cannot fault; every
    // x86-64 processor has the instruction.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
}

#[inline]
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn prefetch_line(_line: &[u8]) {}

#[cfg(test)]
mod tests {
    #[test]
    fn asking_for_more_than_there_is_asks_for_what_there_is() {
        let bytes = vec![1u8; 1000];
        for len in [0, 1, 64, 999, 1000, 1001, usize::MAX] {
            super::prefetch(&bytes, len);
            super::prefetch(&[], len);
        }
        assert!(bytes.iter().all(|&b| b == 1));
    }
}
