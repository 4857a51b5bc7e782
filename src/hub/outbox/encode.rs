//! Frames into bytes: small ones are copied together, large ones are written from where they lie.

use std::{cell::RefCell, collections::VecDeque, io, io::IoSlice};

use super::{Content, Frame, Wire};

/// Up to this many bytes, copying a piece is cheaper than one more slice in the system call.
const COPIED_BYTES: usize = 4096;
/// Bytes handed to the kernel at once.
const BATCH_BYTES: usize = 256 * 1024;
/// Slices handed to the kernel at once; it takes 1,024 (`IOV_MAX`).
const BATCH_SLICES: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Collects the bytes of frames.
#[derive(Debug)]
pub struct Encoder<'a, 's> {
    copied: &'s mut Vec<u8>,
    /// Pieces left where they lie, each with the number of copied bytes before it.
    lying: Vec<(usize, &'a [u8])>,
    lying_bytes: usize,
}

impl<'a> Encoder<'a, '_> {
    /// Appends `piece`.
    pub fn put(&mut self, piece: &'a [u8]) {
        if piece.len() > COPIED_BYTES {
            self.lying.push((self.copied.len(), piece));
            self.lying_bytes += piece.len();
        } else {
            self.copied.extend_from_slice(piece);
        }
    }

    /// Appends a few bytes that do not live as long as the frame.
    pub fn put_copy(&mut self, piece: &[u8]) {
        self.copied.extend_from_slice(piece);
    }

    fn len(&self) -> usize {
        self.copied.len() + self.lying_bytes
    }

    fn is_large(&self) -> bool {
        self.len() >= BATCH_BYTES || self.lying.len() * 2 >= BATCH_SLICES
    }

    /// Writes everything but the first `skip` bytes in one call.
    fn write(&self, wire: &dyn Wire, skip: usize) -> io::Result<usize> {
        if self.lying.is_empty() {
            return wire.try_write(&[IoSlice::new(self.copied.get(skip..).unwrap_or_default())]);
        }
        let mut slices = Vec::with_capacity(self.lying.len() * 2 + 1);
        let mut copied = 0;
        for (at, piece) in &self.lying {
            slices.push(IoSlice::new(&self.copied[copied..*at]));
            slices.push(IoSlice::new(piece));
            copied = *at;
        }
        slices.push(IoSlice::new(&self.copied[copied..]));
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, skip);
        wire.try_write(rest)
    }
}

/// Writes as many of `frames` as one call takes, without the first `skip` bytes. How many bytes the wire took.
pub(super) fn write(wire: &dyn Wire, frames: &VecDeque<Frame>, skip: usize) -> io::Result<usize> {
    with_encoder(|encoder| {
        for frame in frames {
            wire.encode(frame.content(), encoder);
            if encoder.is_large() {
                break;
            }
        }
        encoder.write(wire, skip)
    })
}

/// Writes `content` in one call. How many bytes the wire took, and of how many.
pub(super) fn write_one(wire: &dyn Wire, content: Content<'_>) -> io::Result<(usize, usize)> {
    with_encoder(|encoder| {
        wire.encode(content, encoder);
        Ok((encoder.write(wire, 0)?, encoder.len()))
    })
}

fn with_encoder<'a, T>(work: impl FnOnce(&mut Encoder<'a, '_>) -> T) -> T {
    SCRATCH.with_borrow_mut(|copied| {
        copied.clear();
        let outcome = work(&mut Encoder { copied, lying: Vec::new(), lying_bytes: 0 });
        if copied.capacity() > 2 * BATCH_BYTES {
            *copied = Vec::new();
        }
        outcome
    })
}
