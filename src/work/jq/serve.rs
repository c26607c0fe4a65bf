//! The child's side: a filter, and one body after another.

use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::filter::{compile, run};
use super::wire::{READY, encode, length};
use crate::work::processor::Failure;

/// Filters recurse. Only what is used of it becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// What a process may take in all (address space, its stack and this program included), and the
/// part of it that grows with the longest output: parsed JSON takes many times its text.
const MEMORY_BYTES: u64 = 1 << 30;
const MEMORY_OF_OUTPUT: u64 = 64;

/// Runs a filter for the process at the other end of standard input and output, until that closes
/// them or dies. All outputs of a record together have at most `max_output` bytes. Blocks.
///
/// A filter that recurses too deeply or takes too much memory ends the process.
///
/// # Errors
///
/// Where the pipes break, the system grants no thread, or the filter is none.
pub fn serve(max_output: usize) -> io::Result<()> {
    let memory = MEMORY_BYTES.saturating_add(MEMORY_OF_OUTPUT.saturating_mul(max_output as u64));
    limit(Resource::As, memory)?;
    // Crashes are expected, and leave nothing worth looking at.
    limit(Resource::Core, 0)?;
    let (ended, end) = sync_channel(2);
    let (filter, parent) = (ended.clone(), ended);
    let start = |name: &str| thread::Builder::new().name(name.to_owned());
    // Nobody listens to the second one.
    start("jq").stack_size(STACK_BYTES).spawn(move || drop(filter.send(answer_all(max_output))))?;
    start("parent").spawn(move || drop(parent.send(wait_for_the_parents_end())))?;
    end.recv().unwrap_or_else(|_| Err(io::Error::other("both threads have panicked")))
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// A filter that does not come to an end must not go on when nobody waits for it any more.
fn wait_for_the_parents_end() -> io::Result<()> {
    let input = io::stdin();
    // Nothing is asked for, so that only the other end's closing is told.
    let mut watched = [PollFd::new(&input, PollFlags::empty())];
    while !matches!(poll(&mut watched, None), Ok(1..)) {}
    Ok(())
}

fn answer_all(max_output: usize) -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut body = Vec::new();
    read(&mut input, &mut body)?;
    let code = String::from_utf8(std::mem::take(&mut body)).map_err(io::Error::other)?;
    let filter = compile(&code).map_err(io::Error::other)?;
    write(&mut output, READY)?;
    loop {
        read(&mut input, &mut body)?;
        let answer = catch_unwind(AssertUnwindSafe(|| run(&filter, &body, max_output)))
            .unwrap_or_else(|_| Err(Failure::fail("filter-error", "the filter panicked")));
        write(&mut output, &encode(answer))?;
    }
}

fn read(input: &mut impl io::Read, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    frame.clear();
    let length = u64::from(u32::from_be_bytes(length));
    let read = input.by_ref().take(length).read_to_end(frame)?;
    if read as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn write(output: &mut impl io::Write, frame: &[u8]) -> io::Result<()> {
    let length = length(frame).ok_or_else(|| io::Error::other("an answer is too long"))?;
    output.write_all(&[&length, frame].concat())?;
    output.flush()
}
