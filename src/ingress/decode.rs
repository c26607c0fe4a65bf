//! Bodies that come compressed, and what they may expand to.
//!
//! A single message is received compressed, within the bounds of any body, and expanded in one go,
//! never beyond `max_body` (see [`super::expand`]). An upload is expanded as it comes; no line of it
//! can be too long, but all of it may be [`MAX_RATIO`] times what was sent, and no more: beyond that
//! it is a bomb.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::{ReaderStream, StreamReader};

use super::Options;
use super::body::{self, Room};
use super::problem::{Code, Problem};

/// What an upload may expand to, beside one longest message. Lines of JSON shrink to a tenth, the
/// most monotonous ones to a hundredth.
const MAX_RATIO: u64 = 100;

/// The window of zstd that HTTP is bound to take (RFC 9659), as a power of two: 8 MiB.
const ZSTD_WINDOW: u32 = 23;

/// What expanding an upload may take beside what it holds: zstd's window; gzip's is 32 KiB, with
/// tables.
const ZSTD_MEMORY: u32 = 8 * 1024 * 1024;
const GZIP_MEMORY: u32 = 64 * 1024;

/// How much of an upload is expanded at once.
const PIECE: usize = 16 * 1024;

/// The pieces of an upload, expanded.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Problem>>;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

/// How the body is compressed, `None` where it is not.
///
/// # Errors
///
/// [`Code::UnsupportedMedia`] for every other encoding, and for several.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let name = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.as_bytes().trim_ascii().to_ascii_lowercase(),
        (Some(_), Some(_)) => b"several".to_vec(),
    };
    match name.as_slice() {
        b"" | b"identity" => Ok(None),
        b"gzip" | b"x-gzip" => Ok(Some(Encoding::Gzip)),
        b"zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(Problem::new(Code::UnsupportedMedia, "Content-Encoding may be gzip or zstd, one of them")),
    }
}

/// Expands a whole body; `None` where that is more than `most` bytes. Does not wait; a MiB takes some
/// milliseconds.
///
/// # Errors
///
/// [`Code::InvalidBody`] where it is not what the encoding says.
pub(super) fn whole(encoding: Encoding, compressed: &[u8], most: usize) -> Result<Option<Bytes>, Problem> {
    let reader: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
        Encoding::Zstd => Box::new(zstd_reader(compressed).map_err(|error| broken(&error))?),
    };
    let mut expanded = Vec::new();
    reader.take(most as u64 + 1).read_to_end(&mut expanded).map_err(|error| broken(&error))?;
    Ok((expanded.len() <= most).then(|| expanded.into()))
}

fn zstd_reader(compressed: &[u8]) -> io::Result<impl Read + '_> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    Ok(decoder)
}

/// The pieces of an upload, as they come and expanded where they are compressed.
///
/// # Errors
///
/// [`Code::UnsupportedMedia`], and [`Code::Overloaded`] where there is no memory to expand it with.
pub(super) fn pieces(headers: &HeaderMap, body: Body, options: &Options, room: &Room) -> Result<Pieces, Problem> {
    let Some(encoding) = encoding(headers)? else {
        return Ok(body.into_data_stream().map_err(|error| body::broke_off(&error)).boxed());
    };
    let takes = if encoding == Encoding::Zstd { ZSTD_MEMORY } else { GZIP_MEMORY };
    let share = Arc::clone(&room.memory).try_acquire_many_owned(takes).map_err(|_| body::no_memory())?;
    let received = Arc::new(AtomicU64::new(0));
    let compressed = StreamReader::new(counted(body.into_data_stream(), Arc::clone(&received)).boxed());
    let reader: Box<dyn AsyncRead + Send + Unpin> = match encoding {
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(compressed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Encoding::Zstd => {
            let mut decoder = ZstdDecoder::with_params(compressed, &[DParameter::window_log_max(ZSTD_WINDOW)]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    };
    Ok(bounded(reader, share, received, options.max_body as u64).boxed())
}

fn counted(
    body: BodyDataStream,
    received: Arc<AtomicU64>,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let count = move |piece: &Bytes| {
        received.fetch_add(piece.len() as u64, Ordering::Relaxed);
    };
    body.inspect_ok(count).map_err(io::Error::other)
}

/// What the reader gives, until it is more than a body of that size may become. Ends with the
/// first problem.
fn bounded(
    reader: Box<dyn AsyncRead + Send + Unpin>,
    share: OwnedSemaphorePermit,
    received: Arc<AtomicU64>,
    floor: u64,
) -> impl futures::Stream<Item = Result<Bytes, Problem>> + Send + 'static {
    let mut expanded = 0;
    ReaderStream::with_capacity(reader, PIECE).map(move |piece| {
        let _ = &share;
        let piece = piece.map_err(|error| broken(&error))?;
        expanded += piece.len() as u64;
        if expanded > floor + MAX_RATIO * received.load(Ordering::Relaxed) {
            let detail = format!("the body expands to more than {MAX_RATIO} times what was sent");
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        Ok(piece)
    })
}

fn broken(error: &io::Error) -> Problem {
    Problem::new(Code::InvalidBody, format!("the body cannot be expanded: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn compressed(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Gzip => gzip(bytes),
            Encoding::Zstd => zstd::encode_all(bytes, 3).expect("memory takes it"),
        }
    }

    #[test]
    fn a_body_expands_to_what_it_was_and_never_beyond_its_bound() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let code = |bytes: &[u8]| whole(encoding, bytes, 1000).map_err(|problem| problem.code());
            assert_eq!(code(&compressed(encoding, &[7; 1000])), Ok(Some(Bytes::from(vec![7; 1000]))));
            assert_eq!(code(&compressed(encoding, &[7; 1001])), Ok(None));
            assert_eq!(code(&compressed(encoding, &vec![0; 100_000_000])), Ok(None));
            assert_eq!(code(b"plain text"), Err(Code::InvalidBody));
            let whole = compressed(encoding, &[7; 500]);
            assert_eq!(code(&whole[..whole.len() / 2]), Err(Code::InvalidBody), "{encoding:?}");
            let twice = code(&[whole.clone(), whole].concat());
            assert_eq!(twice, Ok(Some(Bytes::from(vec![7; 1000]))), "of several members");
        }
    }
}
