// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that are compressed as they are written.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Compresses what is written to it, as the file's ending says.
pub(crate) enum Packer<W: Write> {
    /// Any other ending: as it is.
    Plain(BufWriter<W>),
    /// `.gz` (RFC 1952).
    Gzip(GzEncoder<BufWriter<W>>),
    /// `.zst` (RFC 8878), with a checksum.
    Zstd(Box<zstd::Encoder<'static, BufWriter<W>>>),
}

impl<W: Write> Packer<W> {
    pub(crate) fn for_path(path: &Path, to: W) -> io::Result<Self> {
        let to = BufWriter::new(to);
        Ok(match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Self::Gzip(GzEncoder::new(to, Compression::default())),
            Some("zst") => Self::zstd_buffer(to)?,
            _ => Self::Plain(to),
        })
    }

    pub(crate) fn zstd(to: W) -> io::Result<Self> {
        Self::zstd_buffer(BufWriter::new(to))
    }

    fn zstd_buffer(to: BufWriter<W>) -> io::Result<Self> {
        let mut encoder = zstd::Encoder::new(to, zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self::Zstd(Box::new(encoder)))
    }

    /// Writes the end, without which the file is cut off.
    pub(crate) fn finish(self) -> io::Result<W> {
        let buffer = match self {
            Self::Plain(buffer) => buffer,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        buffer.into_inner().map_err(|error| error.into_error())
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(buffer) => buffer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(buffer) => buffer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
