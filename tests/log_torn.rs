//! The end of an embedded log's journal as a loss of power leaves it, byte by byte.

#[path = "support/texts.rs"]
mod texts;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use seriatim::log::embedded::{Embedded, OpenError, Options};
use seriatim::log::{Cleanup, Log as _, Topic, TopicShape};
use seriatim::record::BatchBuilder;
use tempfile::{TempDir, tempdir};
use texts::{partition, values};

const JOURNAL: &str = "store/0.jnl";
const CUT: &str = "seriatim-cut";

/// Where a batch has its sequence number, which its checksum does not cover: another one does no harm.
const SEQUENCE: std::ops::Range<usize> = 5..13;

/// Notes the floor at closing only.
fn options() -> Options {
    Options { floor_every: Duration::from_secs(3600), ..Options::default() }
}

async fn open(folder: &Path) -> Result<Embedded, OpenError> {
    let log = Embedded::open(folder, options())?;
    let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
    log.ensure(&[(Topic::from("topic"), shape)]).await.expect("the shape is the same every time");
    Ok(log)
}

async fn append(log: &Embedded, value: &str) {
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(value.as_bytes()), |_| {});
    log.append(&partition(), builder.finish()).await.expect("there is room").await.expect("it is written");
}

/// A folder at the moment in which the power goes: its journal, without the zeroes that it begins with.
struct Left {
    folder: TempDir,
    journal: Vec<u8>,
    /// Where the last two batches begin.
    begins: [usize; 2],
}

fn used(folder: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(folder.join(JOURNAL)).expect("it is the only journal");
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

impl Left {
    /// With `a`, which the floor holds, and then `b` and `c`.
    async fn new() -> Self {
        let (folder, copy) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        append(&open(folder.path()).await.expect("it is new"), "a").await;
        let log = open(folder.path()).await.expect("it was closed");
        let first = used(folder.path()).len();
        append(&log, "b").await;
        let second = used(folder.path()).len();
        append(&log, "c").await;
        let journal = used(folder.path());
        copy_all(folder.path(), copy.path());
        Self { folder: copy, journal, begins: [first, second] }
    }

    /// The same folder with another journal.
    fn with(&self, journal: &[u8]) -> TempDir {
        let folder = tempdir().expect("a folder");
        copy_all(self.folder.path(), folder.path());
        std::fs::write(folder.path().join(JOURNAL), journal).expect("it can be written");
        folder
    }
}

/// Copies all but the journals, whose zeroes would take their time.
fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("it is there").map(|entry| entry.expect("it can be listed")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("there is room");
            copy_all(&entry.path(), &target);
        } else if entry.path().extension().is_none_or(|extension| extension != "jnl") {
            std::fs::copy(entry.path(), target).expect("there is room");
        }
    }
}

/// What a disk may have made of the bytes of a batch from `at` on, of a journal that is followed by zeroes.
fn harms(journal: &[u8], at: usize) -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = journal.to_vec();
        change(&mut bytes);
        bytes.extend_from_slice(&[0; 512]);
        bytes
    };
    let block = at..journal.len().min(at + 16);
    vec![
        ("cut", journal[..at].to_vec()),
        ("zeroes from here on", changed(&|bytes| bytes[at..].fill(0))),
        ("a block of zeroes", changed(&|bytes| bytes[block.clone()].fill(0))),
        ("a block of something else", changed(&|bytes| bytes[block.clone()].fill(0xa5))),
    ]
}

fn with_a_bit_turned(journal: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = journal.to_vec();
    bytes[at] ^= 4;
    bytes
}

#[tokio::test]
async fn a_torn_last_batch_is_cut_wherever_it_is_torn() {
    let left = Left::new().await;
    for at in left.begins[1]..left.journal.len() {
        let mut harms = harms(&left.journal, at);
        if !SEQUENCE.contains(&(at - left.begins[1])) {
            harms.push(("a bit", with_a_bit_turned(&left.journal, at)));
        }
        for (what, journal) in harms {
            let folder = left.with(&journal);
            let log = open(folder.path()).await.unwrap_or_else(|refused| panic!("{what} at {at}: {refused}"));
            assert_eq!(values(&log).await, ["a", "b"], "{what} at {at}");
            append(&log, "d").await;
            drop(log);
            let kept = folder.path().join(CUT);
            let nothing = journal[left.begins[1]..].iter().all(|byte| *byte == 0);
            assert_eq!(kept.exists(), !nothing, "{what} at {at}: what is cut off is kept");
            let log = open(folder.path()).await.unwrap_or_else(|refused| panic!("{what} at {at}, again: {refused}"));
            assert_eq!(values(&log).await, ["a", "b", "d"], "{what} at {at}");
        }
    }
}

#[tokio::test]
async fn a_whole_journal_is_left_alone() {
    let left = Left::new().await;
    let folder = left.with(&left.journal);
    assert_eq!(values(&open(folder.path()).await.expect("nothing is wrong")).await, ["a", "b", "c"]);
    assert!(!folder.path().join(CUT).exists());
}

/// Opens it twice, in vain, and finds everything as it was.
async fn is_refused(left: &Left, folder: &Path, journal: &[u8]) -> OpenError {
    open(folder).await.expect_err("something is missing");
    let refused = open(folder).await.expect_err("it is still");
    let found = std::fs::read(folder.join(JOURNAL)).expect("it is there");
    let end = journal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    assert!(found.starts_with(&journal[..end]) && found[end..].iter().all(|byte| *byte == 0), "nothing was changed");
    assert!(end > left.begins[0] && !folder.join(CUT).exists());
    refused
}

#[tokio::test]
async fn a_bad_batch_with_a_good_one_behind_it_is_damage() {
    let left = Left::new().await;
    for at in (left.begins[0]..left.begins[1]).filter(|at| !SEQUENCE.contains(&(at - left.begins[0]))) {
        let journal = with_a_bit_turned(&left.journal, at);
        let folder = left.with(&journal);
        let refused = is_refused(&left, folder.path(), &journal).await;
        assert!(
            matches!(&refused, OpenError::Damaged { reason, .. } if reason.contains("good ones behind")),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_bad_last_batch_that_was_known_to_be_durable_is_refused() {
    let left = Left::new().await;
    let floor = "{\"topic\":[3]}";
    for at in (left.begins[1]..left.journal.len()).filter(|at| !SEQUENCE.contains(&(at - left.begins[1]))) {
        let journal = with_a_bit_turned(&left.journal, at);
        let folder = left.with(&journal);
        let mut file = std::fs::File::create(folder.path().join("seriatim-floor.json")).expect("there is room");
        file.write_all(floor.as_bytes()).expect("there is room");
        let refused = is_refused(&left, folder.path(), &journal).await;
        assert!(matches!(refused, OpenError::Lost { .. }), "{refused}");
    }
}
