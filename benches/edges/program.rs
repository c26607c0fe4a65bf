//! The program in a process and a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) data: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts it with this configuration; ports are free ones.
    ///
    /// The log is embedded, or on the Kafka whose address `KAFKA` names.
    pub(crate) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kafka = std::env::var("KAFKA").ok();
        let log = kafka.as_ref().map_or_else(String::new, |servers| {
            let name = folder.path().file_name().and_then(|name| name.to_str()).expect("it is text");
            let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            format!("name = \"{name}\"\nlog.kafka = {{ \"bootstrap.servers\" = \"{servers}\" }}\n")
        });
        std::fs::write(folder.path().join("seriatim.toml"), log + config).expect("it can be written");
        if kafka.is_some() {
            let mut apply = Command::new(env!("CARGO_BIN_EXE_seriatim"));
            let applied = apply.args(["topics", "apply"]).current_dir(folder.path()).stdout(Stdio::null()).status();
            assert!(applied.expect("the program runs").success(), "the topics cannot be made");
        }
        let env = [("SERIATIM_INGRESS__HTTP", "127.0.0.1:0"), ("SERIATIM_ADMIN__LISTEN", "127.0.0.1:0")];
        let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
        command
            .arg("run")
            .current_dir(folder.path())
            .env_clear()
            .envs(env)
            .env("RUST_LOG", "info,seriatim::deliver=error");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("the data port listens")).expect("it listens");
        let (_, address) = line.split_once("address=").expect("it says where");
        let data = address.split_whitespace().next().and_then(|text| text.parse().ok()).expect("it says where");
        // Read on, so that it finds somebody to talk to.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, data, _folder: folder }
    }

    /// The processor's time that it has used.
    pub(crate) fn busy(&self) -> Duration {
        /// Clock ticks a second, which Linux promises to programs whatever it counts with itself.
        const TICKS: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs, on Linux");
        // Behind the name, which may hold anything, come the state and ten numbers, then these two.
        let (_, fields) = stat.rsplit_once(") ").expect("Linux has it");
        let used: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(used * 1000 / TICKS)
    }

    /// Resident memory in MiB: now, and at most until now.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs, on Linux");
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("Linux has it");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("it is a number") / 1024
        };
        (line("VmRSS:"), line("VmHWM:"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which the measurement has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
