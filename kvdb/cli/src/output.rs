//! Writing to stdout.

use std::io::{self, BufWriter, StdoutLock, Write};

use crate::bytes::escape;
use crate::failure::Failure;

/// Standard output, in large pieces. Every error it gives ends the command: quietly, if it
/// is that the reader has gone.
pub(crate) struct Output {
    inner: BufWriter<StdoutLock<'static>>,
    scratch: Vec<u8>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()), scratch: Vec::new() }
    }

    /// Writes the bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.inner.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Writes the bytes in their escaped form.
    pub(crate) fn escaped(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.scratch.clear();
        escape(bytes, &mut self.scratch);
        self.inner.write_all(&self.scratch).map_err(|error| Failure::stdout(&error))
    }

    /// Sends out what is still held back. Without it the end of the output may be lost.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(|error| Failure::stdout(&error))
    }
}
