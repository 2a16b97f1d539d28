//! Files that were compressed: told by their first bytes, read as they unpack.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

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
    let whole = io::Cursor::new(first).chain(stream);
    Ok(match kind {
        (true, _, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true, _) => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        (_, _, true) => Box::new(XzReader::new(whole, true)),
        _ => Box::new(whole),
    })
}
