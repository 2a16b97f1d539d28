// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that were compressed: told by their first bytes, read as they unpack.
//!
//! A file may be several members (RFC 1952, frames of RFC 8878, streams of .xz) one behind the
//! other, and zeros behind the last, as block devices and tapes leave them.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use zstd::stream::read::Decoder as ZstdDecoder;

/// RFC 1952, RFC 8878 and the .xz file format.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// Bytes of compressed input that are read at once.
const INPUT_BYTES: usize = 1 << 17;

/// The stream as it was before it was compressed with gzip, zstd or xz, if it was.
///
/// # Errors
/// The stream's.
pub fn unpacked<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(INPUT_BYTES, stream);
    // A pipe may give its first bytes one by one.
    let mut first = Vec::new();
    while first.len() < XZ.len() {
        let there = stream.fill_buf()?;
        if there.is_empty() {
            break;
        }
        let taken = there.len().min(XZ.len() - first.len());
        first.extend_from_slice(&there[..taken]);
        stream.consume(taken);
    }
    let kind = (
        first.starts_with(&GZIP),
        first.starts_with(&ZSTD),
        first.starts_with(&XZ),
    );
    let whole = Cursor::new(first).chain(stream);
    Ok(match kind {
        (true, _, _) => Box::new(Members::<GzDecoder<_>>::new(whole)?),
        (_, true, _) => Box::new(Members::<ZstdDecoder<'static, _>>::new(whole)?),
        (_, _, true) => Box::new(Members::<XzReader<_>>::new(whole)?),
        _ => Box::new(whole),
    })
}

/// A decoder of one member, which gives the stream back at the member's end.
trait Member: Read + Sized {
    type Stream: BufRead;

    fn begin(stream: Self::Stream) -> io::Result<Self>;
    fn end(self) -> Self::Stream;
}

impl<R: BufRead> Member for GzDecoder<R> {
    type Stream = R;

    fn begin(stream: R) -> io::Result<Self> {
        Ok(Self::new(stream))
    }

    fn end(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member for ZstdDecoder<'static, R> {
    type Stream = R;

    fn begin(stream: R) -> io::Result<Self> {
        Ok(Self::with_buffer(stream)?.single_frame())
    }

    fn end(self) -> R {
        self.finish()
    }
}

impl<R: BufRead> Member for XzReader<R> {
    type Stream = R;

    fn begin(stream: R) -> io::Result<Self> {
        Ok(Self::new(stream, false))
    }

    fn end(self) -> R {
        self.into_inner()
    }
}

/// Members one behind the other.
enum Members<M: Member> {
    Open(M),
    /// Nothing follows, or something that could not be read.
    Over,
}

impl<M: Member> Members<M> {
    fn new(stream: M::Stream) -> io::Result<Self> {
        Ok(Self::Open(M::begin(stream)?))
    }
}

impl<M: Member> Read for Members<M> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let Self::Open(member) = self else {
                return Ok(0);
            };
            let count = member.read(bytes)?;
            if count > 0 || bytes.is_empty() {
                return Ok(count);
            }
            let Self::Open(ended) = std::mem::replace(self, Self::Over) else {
                return Ok(0);
            };
            let mut stream = ended.end();
            if pass_zeros(&mut stream)? {
                *self = Self::Open(M::begin(stream)?);
            }
        }
    }
}

/// Passes over zeros; false where nothing follows them.
fn pass_zeros(stream: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let there = match stream.fill_buf() {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if there.is_empty() {
            return Ok(false);
        }
        let zeros = there.iter().take_while(|byte| **byte == 0).count();
        let is_over = zeros < there.len();
        stream.consume(zeros);
        if is_over {
            return Ok(true);
        }
    }
}
