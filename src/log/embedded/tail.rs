//! The end of the journal, as a loss of power leaves it.
//!
//! The store writes one batch, syncs, and only then writes the next. So what a crash of the machine can tear is
//! the last batch, which nobody was told of: some of its blocks are there, others are zeroes or what the disk
//! held before. The store refuses to open on some such ends. Here the journal that was written last is read
//! ahead of it, a bad last batch is cut off, and kept beside the store. A bad batch with a good one behind it is
//! no torn end, but damage.
//!
//! The form of a journal is fjall's (its version is therefore fixed): batches of `start | items | end`, integers
//! little-endian, `end` with the XXH3 of the items.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::folder::{CUT, Lock, OpenError, replace};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8; 4] = b"FJL\x03";

/// What is looked at in one go.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// An end that was cut off.
pub(super) struct Cut {
    journal: PathBuf,
    at: u64,
    bytes: Vec<u8>,
}

/// Cuts off a bad last batch, if there is one. What is behind the last byte that is not zero was never written.
pub(super) fn cut(lock: &Lock) -> Result<Option<Cut>, OpenError> {
    let look = || {
        let Some(journal) = newest(&lock.store())? else { return Ok(None) };
        let (at, bytes) = end(&journal)?;
        Ok((!bytes.is_empty()).then_some(Cut { journal, at, bytes }))
    };
    let Some(cut) = look().map_err(|e| lock.failed("read its journal", &e))? else { return Ok(None) };
    if (1..cut.bytes.len()).any(|from| cut.bytes[from] == START && batch(&mut &cut.bytes[from..]).is_ok()) {
        let (journal, at) = (cut.journal.display(), cut.at);
        return Err(
            lock.damaged(format!("{journal} has a batch at byte {at} that cannot be read, and good ones behind it"))
        );
    }
    cut.make(lock).map_err(|e| lock.failed("cut its journal", &e))?;
    Ok(Some(cut))
}

impl Cut {
    fn make(&self, lock: &Lock) -> io::Result<()> {
        replace(lock.folder(), CUT, &self.bytes)?;
        let journal = OpenOptions::new().write(true).open(&self.journal)?;
        journal.set_len(self.at)?;
        journal.sync_all()
    }

    /// Says so.
    pub(super) fn tell(&self, lock: &Lock) {
        let (journal, bytes, kept) = (self.journal.display(), self.bytes.len(), lock.folder().join(CUT));
        tracing::warn!(%journal, at = self.at, bytes, kept = %kept.display(), "the end of the journal cannot be read and is cut off: a write that was not finished, unless the disk is failing");
    }

    /// Puts it back, where the store has written nothing since, for what has come out to be damage.
    pub(super) fn undo(self, lock: &Lock) -> Result<(), OpenError> {
        let undo = || {
            let mut journal = OpenOptions::new().append(true).open(&self.journal)?;
            if journal.metadata()?.len() == self.at {
                journal.write_all(&self.bytes)?;
                journal.sync_all()?;
                std::fs::remove_file(lock.folder().join(CUT))?;
            }
            Ok(())
        };
        undo().map_err(|e| lock.failed("put back the end of its journal", &e))
    }
}

/// The journal that was written last, if there is any.
fn newest(store: &Path) -> io::Result<Option<PathBuf>> {
    let listing = match std::fs::read_dir(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        listing => listing?,
    };
    let mut newest = None;
    for entry in listing {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()).filter(|_| is_journal);
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the good batches end, and what was written behind them.
fn end(journal: &Path) -> io::Result<(u64, Vec<u8>)> {
    let mut file = BufReader::new(File::open(journal)?);
    let mut at = 0;
    loop {
        match batch(&mut file) {
            Ok(()) => at = file.stream_position()?,
            Err(error) if is_bad(&error) => break,
            Err(error) => return Err(error),
        }
    }
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    let mut piece = vec![0; ZEROES.len()];
    let mut zeroes = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((at, bytes));
        }
        // Zeroes are held only once something follows them: a journal begins with 64 MiB of them.
        if piece[..read] == ZEROES[..read] {
            zeroes += read;
            continue;
        }
        let used = piece[..read].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.resize(bytes.len() + zeroes, 0);
        bytes.extend_from_slice(&piece[..used]);
        zeroes = read - used;
    }
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn is_bad(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Reads over one batch that is whole and right.
fn batch(from: &mut impl Read) -> io::Result<()> {
    let mut hash = Xxh3::new();
    let [START] = array(from)? else { return Err(bad()) };
    let items = u32::from_le_bytes(array(from)?);
    let _sequence: [u8; 8] = array(from)?;
    for _ in 0..items {
        item(from, &mut hash)?;
    }
    let [END] = array(from)? else { return Err(bad()) };
    let checksum = u64::from_le_bytes(array(from)?);
    let magic: [u8; 4] = array(from)?;
    if magic == *MAGIC && checksum == hash.digest() { Ok(()) } else { Err(bad()) }
}

/// `tag | value type | compression | keyspace u64 | key length u16 | length u32 | stored length u32 | key | value`,
/// or `tag | keyspace u64` where a keyspace is cleared.
fn item(from: &mut impl Read, hash: &mut Xxh3) -> io::Result<()> {
    let [tag] = array(from)?;
    hash.update(&[tag]);
    match tag {
        CLEAR => {
            hash.update(&array::<8>(from)?);
            Ok(())
        }
        ITEM => {
            let head: [u8; 20] = array(from)?;
            hash.update(&head);
            let (key, stored) = (u16::from_le_bytes([head[10], head[11]]), [head[16], head[17], head[18], head[19]]);
            let mut left = u64::from(key) + u64::from(u32::from_le_bytes(stored));
            let mut piece = [0; 4096];
            while left > 0 {
                let most = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                from.read_exact(&mut piece[..most])?;
                hash.update(&piece[..most]);
                left -= most as u64;
            }
            Ok(())
        }
        _ => Err(bad()),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
