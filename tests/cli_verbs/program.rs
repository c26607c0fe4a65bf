//! The program in a folder of its own.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How long anything may take that takes a moment; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that goes with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("it can be written");
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn command(folder: &Path, arguments: &[&str], env: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
    command.args(arguments).current_dir(folder).env_clear().envs(env.iter().cloned()).stdin(Stdio::null());
    command
}

fn ended(mut command: Command, input: &str) -> Ended {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // One that ends early closes its input, which is its right.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    Ended {
        code: output.status.code().expect("no signal ended it"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs a verb where no pipeline runs.
pub(crate) fn run(folder: &Folder, arguments: &[&str], env: &[(&str, &str)]) -> Ended {
    ended(command(folder.path(), arguments, &owned(env)), "")
}

fn owned(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A `seriatim run` with both ports bound. Dropping it kills it.
pub(crate) struct Pipeline<'a> {
    folder: &'a Folder,
    child: Child,
    ports: Vec<(String, String)>,
    /// Read on, so that the process finds somebody to talk to.
    _talk: Receiver<String>,
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Pipeline<'a> {
    pub(crate) fn start(folder: &'a Folder, env: &[(&str, &str)]) -> Self {
        Self::start_at(folder, &owned(env))
    }

    /// As [`Pipeline::start`], at the ports of another.
    pub(crate) fn start_at(folder: &'a Folder, env: &[(String, String)]) -> Self {
        let free = [("SERIATIM_INGRESS__HTTP", "127.0.0.1:0"), ("SERIATIM_ADMIN__LISTEN", "127.0.0.1:0")];
        let env = [owned(&free), env.to_vec()].concat();
        let mut child = command(folder.path(), &["run"], &env).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = lines_of(child.stderr.take().expect("it is piped"));
        let port = |what: &str| loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it never said: {what}"));
            if line.contains(what) {
                let (_, address) = line.split_once("address=").expect("it says where");
                break address.split_whitespace().next().expect("it says where").to_owned();
            }
        };
        let data = port("the data port listens");
        let admin = port("the admin port listens");
        let ports = [("SERIATIM_INGRESS__HTTP", data.as_str()), ("SERIATIM_ADMIN__LISTEN", admin.as_str())];
        Self { folder, child, ports: owned(&ports), _talk: lines }
    }

    /// The ports as the configuration has them, to start another there.
    pub(crate) fn ports(&self) -> Vec<(String, String)> {
        self.ports.clone()
    }

    /// Runs a verb that finds this pipeline.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, "")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ended {
        ended(command(self.folder.path(), arguments, &self.ports), input)
    }

    /// The bodies of the outputs, once there are so many.
    pub(crate) fn bodies(&self, count: usize) -> Vec<String> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let tail = self.run(&["tail", "--json"]);
            assert_eq!(tail.code, 0, "{}", tail.err);
            let lines: Vec<&str> = tail.out.lines().collect();
            if lines.len() >= count {
                return lines.into_iter().map(body).collect();
            }
            assert!(tokio::time::Instant::now() < until, "{} outputs came, {count} were to come", lines.len());
        }
    }

    /// Reads the first line of a verb that goes on, closes the pipe and waits for its end.
    pub(crate) fn head(&self, arguments: &[&str]) -> Ended {
        let mut command = command(self.folder.path(), arguments, &self.ports);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let (mut out, stdout) = (String::new(), child.stdout.take().expect("it is piped"));
        BufReader::new(stdout).read_line(&mut out).expect("it is text");
        let until = tokio::time::Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(tokio::time::Instant::now() < until, "it goes on though nobody reads");
            std::thread::park_timeout(Duration::from_millis(20));
        };
        Ended { code: status.code().expect("no signal ended it"), out, err: String::new() }
    }

    pub(crate) fn follow(&self, arguments: &[&str]) -> Follower {
        let mut command = command(self.folder.path(), arguments, &self.ports);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        Follower { child, lines }
    }
}

fn body(line: &str) -> String {
    let output: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    match &output["body"] {
        serde_json::Value::String(text) => text.clone(),
        json => json.to_string(),
    }
}

/// A verb that goes on. Dropping it kills it.
pub(crate) struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    /// A verb where no pipeline may run, by what it says on standard error.
    pub(crate) fn of(folder: &Folder, env: &[(String, String)], arguments: &[&str]) -> Self {
        let mut command = command(folder.path(), arguments, env);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = lines_of(child.stderr.take().expect("it is piped"));
        Self { child, lines }
    }

    /// The next lines it prints.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let next = || self.lines.recv_timeout(PATIENCE).expect("a line comes in time");
        (0..count).map(|_| next()).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a follower that may wait to be looked at.
const LINES_AHEAD: usize = 10_000;

/// Reads lines on a thread, so that waiting for one can have an end.
fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
