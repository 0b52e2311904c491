//! Noticing that records are read in the order they lie in.

use std::ptr::from_ref;

use crate::format::FIRST_FRAME;
use crate::{LogView, Pointer};

/// Bytes of records after which the next one is looked for where they would have led to.
const SAMPLE: u64 = 64 << 10;
/// So many bytes in a row are a sequence: enough that reading on for some megabytes is no waste.
const LONG: u64 = 1 << 20;
/// Of what lies between two samples at least this part must have been read.
const READ_PART: u64 = 2;

/// Notices when pointers lead through their files from front to back, as those of a store in key
/// order do where garbage collection has written the records, or where they were loaded in that
/// order. The system reads ahead of such a reader better than it could be told what is next, since
/// it does so in large pieces of memory: [`LogView::read_along`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOrder {
    /// Where the last sample lay: the file, by its address, and the offset. 0: there is none.
    file: usize,
    offset: u64,
    /// Bytes of the records from it on.
    passed: u64,
    /// Bytes that were in order up to it.
    run: u64,
}

impl ReadOrder {
    /// Takes note of the next pointer, always of the same view, and says whether the records up to
    /// it are in order. Looks a pointer up every 64 KiB only.
    #[inline]
    pub fn note(&mut self, view: &LogView, pointer: Pointer) -> bool {
        if self.passed >= SAMPLE || self.file == 0 {
            self.sample(view, pointer);
        }
        self.passed += u64::from(pointer.len());
        self.run >= LONG
    }

    #[cold]
    fn sample(&mut self, view: &LogView, pointer: Pointer) {
        let Ok((file, offset)) = view.locate(pointer) else {
            *self = ReadOrder::default();
            return;
        };
        let (file, offset) = (from_ref(file) as usize, u64::from(offset));
        let reach = self.passed * READ_PART + u64::from(FIRST_FRAME);
        // Within the file, or near the front of the next.
        let from = if file == self.file { self.offset } else { 0 };
        let in_order = offset > from && offset - from <= reach;
        self.run = if in_order { self.run + self.passed } else { 0 };
        (self.file, self.offset, self.passed) = (file, offset, 0);
    }
}
