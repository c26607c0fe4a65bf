//! `seriatim check`: looks at the configuration and what it names, and changes nothing.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::topics::shared;
use crate::log::embedded::{Embedded, nearly_full};
use crate::log::kafka;
use crate::process::config::{Address, Config};
use crate::process::{self, Engine, secret};
use crate::topics::Difference;
use crate::work::jq;

/// Look at the configuration and at what it names: folder, ports, files, programs
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  seriatim check\n  seriatim check --config pipeline.toml --json\n  seriatim check --dump"
)]
pub(super) struct Check {
    /// Print the configuration that is in effect instead, as TOML, secrets hidden
    #[arg(long)]
    dump: bool,
    /// Print findings as JSON
    #[arg(long, conflicts_with = "dump")]
    json: bool,
}

impl Check {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        if self.dump {
            print!("{}", config.dump());
            return Ok(Exit::Ok);
        }
        let findings = findings(config);
        let failed = findings.iter().any(|finding| finding.level == Level::Error);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            print!("{}", text(&findings));
        }
        Ok(if failed { Exit::Failed } else { Exit::Ok })
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// A pipeline with this configuration would not start.
    Error,
    /// It would, and somebody should know.
    Warning,
    /// Nothing is wrong with it; it has a consequence that is easily missed.
    Note,
}

/// Something that was found.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    key: String,
    reason: String,
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { level, key, reason } in findings {
        let level = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        writeln!(text, "{level}: {key}: {reason}").expect("a String takes everything");
    }
    if findings.is_empty() {
        text.push_str("nothing to complain about\n");
    }
    text
}

fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.log(config);
    findings.worker(config);
    findings.destinations(config);
    findings.files(config);
    findings.ports(config);
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Finding { level: Level::Error, key: key.into(), reason: reason.into() });
    }

    fn warning(&mut self, key: &'static str, reason: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, key: key.to_owned(), reason: reason.into() });
    }

    fn note(&mut self, key: &'static str, reason: String) {
        self.0.push(Finding { level: Level::Note, key: key.to_owned(), reason });
    }

    fn log(&mut self, config: &Config) {
        let Some(folder) = config.log.folder() else { return self.kafka(config) };
        if let Err(error) = writable(&folder) {
            return self.error("log.embedded", format!("{} cannot be written to: {error}", folder.display()));
        }
        match Embedded::objections(&folder, &config.topics().shapes()) {
            Ok(objections) => objections.into_iter().for_each(|reason| self.error("log.partitions", reason)),
            Err(error) => self.error("log.embedded", error.to_string()),
        }
        if let Some(holder) = Embedded::holder(&folder) {
            self.warning("log.embedded", format!("{holder}; fine if that is this pipeline, already running"));
        }
        if let Some(reason) = existing(&folder).ok().and_then(|on| nearly_full(&on, config.log.reserve.get())) {
            self.warning("log.reserve", format!("{reason}: messages would be refused; make room, or move the folder"));
        }
    }

    /// Asks the brokers; where they answer, the topics are looked at, too.
    fn kafka(&mut self, config: &Config) {
        let properties = config.log.kafka.as_ref();
        if let Some(reason) = properties.and_then(|properties| kafka::advice(&properties.0)) {
            self.warning("log.kafka", reason);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let look = async {
            let (engine, topics) = (Engine::open(config).await?, config.topics());
            let findings = engine.findings(&topics).await?;
            let lost = engine.lost(&topics, &findings).await;
            Ok::<_, process::Error>((findings, lost))
        };
        let (findings, lost) = match runtime.map(|runtime| runtime.block_on(look)) {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let reason = error.to_string();
                // Where properties contradict each other the engine names the key itself.
                return self.error("log.kafka", reason.strip_prefix("log.kafka: ").unwrap_or(&reason));
            }
            Err(error) => return self.error("log.kafka", format!("cannot look: {error}")),
        };
        let missing = findings.iter().filter(|finding| finding.partitions.is_none()).count();
        if missing > 0 {
            self.error("log.kafka", format!("{missing} topics are missing; `seriatim topics apply` creates them"));
        }
        for (topic, lost) in lost {
            self.warning("log.kafka", format!("topic {topic}: {}", lost.reason()));
        }
        self.topics(&findings);
    }

    /// What is otherwise with topics that are there.
    fn topics(&mut self, findings: &[process::Finding]) {
        let there: Vec<_> = findings.iter().filter(|finding| finding.partitions.is_some()).collect();
        let shared = shared(there.iter().map(|finding| finding.differences.as_slice()));
        let mut tell = |of: String, Difference { refused, reason }: &Difference| {
            let reason = format!("{of}: {reason}");
            if *refused { self.error("log.kafka", reason) } else { self.warning("log.kafka", reason) }
        };
        for process::Finding { wanted, differences, .. } in there {
            for difference in differences.iter().filter(|difference| !shared.contains(difference)) {
                tell(format!("topic {}", wanted.topic), difference);
            }
        }
        for difference in shared {
            tell("all topics".to_owned(), difference);
        }
    }

    fn worker(&mut self, config: &Config) {
        let work = &config.work;
        if work.http.is_none() && work.exec.is_none() && work.jq.is_none() && work.builtin.is_none() {
            self.warning(
                "work",
                "no worker is given, so messages are handed on as they are; give http, exec, jq or builtin",
            );
        }
        if let Some(Err(reason)) = work.exec.as_ref().and_then(|exec| exec.command.first()).map(|program| find(program))
        {
            self.error("work.exec.command", reason);
        }
        if let Some(Err(error)) = work.jq.as_deref().map(jq::compile) {
            self.error("work.jq", error.to_string());
        }
        if config.log.kafka.is_some() && !work.fan_out {
            self.note(
                "work.fan_out",
                format!(
                    "at most {} work processes have a lane to work on, further ones stand by; true uses any number",
                    config.log.partitions
                ),
            );
        }
        let window = u64::from(config.order.window.get()) * u64::from(config.log.partitions.get());
        if window < work.concurrency.get().into() {
            let reason = format!("{window} in all lanes is below work.concurrency, which can never be reached");
            self.warning("order.window", reason);
        }
    }

    /// As a start would find them, their secrets included.
    fn destinations(&mut self, config: &Config) {
        for error in process::unusable_destinations(config) {
            match error {
                process::Error::Destination { name, reason } => {
                    self.error(format!("destinations.{name}.push"), reason.to_string());
                }
                other => self.error("destinations", other.to_string()),
            }
        }
    }

    fn files(&mut self, config: &Config) {
        self.file("ingress.tokens_file", config.ingress.tokens_file.as_deref());
        self.file("admin.token_file", config.admin.token_file.as_deref());
        let tls = config.ingress.tls.iter().map(|tls| ("ingress.tls", tls));
        let tls = tls.chain(config.ingress.tcp.iter().filter_map(|port| Some(("ingress.tcp.tls", port.tls.as_ref()?))));
        for (section, (key, path)) in tls.flat_map(|(section, tls)| tls.files().map(move |file| (section, file))) {
            if let Err(error) = std::fs::File::open(path) {
                self.error(format!("{section}.{key}"), format!("{}: {error}", path.display()));
            }
        }
    }

    fn file(&mut self, key: &str, path: Option<&Path>) {
        if let Some(Err(reason)) = path.map(secret::lines) {
            self.error(key, reason);
        }
    }

    fn ports(&mut self, config: &Config) {
        for (key, address) in [("ingress.http", &config.ingress.http), ("admin.listen", &config.admin.listen)] {
            self.port(key, address);
        }
        let asks = |tls: Option<&crate::process::config::Tls>| tls.is_some_and(|tls| tls.client_ca_file.is_some());
        let ingress = &config.ingress;
        if !ingress.http.is_loopback() && ingress.tokens_file.is_none() && !asks(ingress.tls.as_ref()) {
            self.warning("ingress.http", "whoever reaches it may send messages; ingress.tokens_file says who may");
        }
        for port in &ingress.tcp {
            self.port("ingress.tcp", &port.listen);
            if !port.listen.is_loopback() && !asks(port.tls.as_ref()) {
                let reason =
                    format!("whoever reaches {} may send messages; tls.client_ca_file says who may", port.listen);
                self.warning("ingress.tcp", reason);
            }
        }
    }

    fn port(&mut self, key: &'static str, address: &Address) {
        match TcpListener::bind(address.as_str()) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                self.warning(key, format!("{address} is in use; fine if that is this pipeline, already running"));
            }
            Err(error) => self.error(key, format!("cannot listen at {address}: {error}")),
        }
    }
}

/// Whether the folder, or the nearest one above it that exists, can be written to.
fn writable(folder: &Path) -> std::io::Result<()> {
    let existing = existing(folder)?;
    if !existing.is_dir() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::NotADirectory,
            format!("{} is a file", existing.display()),
        ));
    }
    Ok(rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?)
}

fn existing(folder: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(folder)?;
    Ok(absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned())
}

/// Looks for the program as the system would; else why it would not start.
fn find(program: &str) -> Result<(), String> {
    let named = if program.contains('/') { Some(PathBuf::from(program)) } else { None };
    let path = std::env::var_os("PATH").filter(|_| named.is_none()).unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(program));
    let files: Vec<_> = named.into_iter().chain(on_path).filter(|path| path.is_file()).collect();
    let may_run = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    match files.first() {
        _ if files.iter().any(may_run) => Ok(()),
        Some(file) => {
            Err(format!("{} is not executable: `chmod +x` it, or name its interpreter first", file.display()))
        }
        None => Err(format!("there is no program {program}, neither as a path nor on PATH")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::topics::{Keeping, Wanted};

    fn found(toml: &str) -> Vec<(Level, String)> {
        let ports = "ingress.http = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\n";
        let config = Config::parse(&format!("{ports}{toml}"), []).expect(toml);
        findings(&config).into_iter().map(|finding| (finding.level, finding.key)).collect()
    }

    #[test]
    fn a_good_configuration_has_no_findings() {
        assert_eq!(found("work.exec.command = ['sh', '-c', 'true']"), []);
        assert_eq!(text(&[]), "nothing to complain about\n");
    }

    #[test]
    fn what_would_not_start_is_an_error() {
        assert_eq!(found("work.exec.command = ['no-such-program']"), [(Level::Error, "work.exec.command".to_owned())]);
        assert_eq!(found("work.jq = '.'\nlog.embedded = '/dev/null/x'"), [(Level::Error, "log.embedded".to_owned())]);
        assert_eq!(found("work.jq = '.foo bar'"), [(Level::Error, "work.jq".to_owned())]);
        let nobody = "work.jq = '.'\nwork.fan_out = true\nlog.kafka = { 'bootstrap.servers' = '127.0.0.1:1' }";
        assert_eq!(found(nobody), [(Level::Error, "log.kafka".to_owned())]);
        assert_eq!(
            found("work.jq = '.'\nadmin.token_file = '/no/such'"),
            [(Level::Error, "admin.token_file".to_owned())]
        );
        for push in ["url = 'https://a', secret_file = '/no/such'", "url = 'https://127.0.0.1/a'"] {
            let push = format!("work.jq = '.'\ndestinations.a.push.http = {{ {push} }}");
            assert_eq!(found(&push), [(Level::Error, "destinations.a.push".to_owned())]);
        }
    }

    #[test]
    fn a_program_that_must_not_run_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("worker.sh");
        std::fs::write(&program, "#!/bin/sh\n").expect("a file");
        let config = format!("work.exec.command = ['{}']", program.display());
        assert_eq!(found(&config), [(Level::Error, "work.exec.command".to_owned())]);
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        assert_eq!(found(&config), []);
    }

    #[test]
    fn a_folder_of_something_else_or_with_other_partitions_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let config = format!("work.jq = '.'\nlog.embedded = '{}'\n", path.display());
        assert_eq!(found(&config), []);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("thesis.doc"), "").expect("a file");
        assert_eq!(found(&config), [(Level::Error, "log.embedded".to_owned())]);
        std::fs::remove_file(path.join("thesis.doc")).expect("it is there");
        let log = Embedded::open(&path, crate::log::embedded::Options::default()).expect("it is empty");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let shapes = Config::parse(&config, []).expect("it is right").topics().shapes();
        runtime.block_on(crate::log::Log::ensure(&log, &shapes)).expect("there are none yet");
        let in_use = (Level::Warning, "log.embedded".to_owned());
        assert_eq!(found(&config), [in_use], "a process has it open, which may be this pipeline");
        drop(log);
        let found = found(&format!("{config}log.partitions = 3"));
        assert!(found.iter().all(|found| *found == (Level::Error, "log.partitions".to_owned())), "{found:?}");
        assert!(!found.is_empty());
    }

    #[test]
    fn a_disk_with_less_than_the_reserve_is_a_warning() {
        let reserve = "work.jq = '.'\nlog.reserve = '9000PB'";
        assert_eq!(found(reserve), [(Level::Warning, "log.reserve".to_owned())]);
    }

    #[test]
    fn what_somebody_should_know_is_a_warning() {
        assert_eq!(found(""), [(Level::Warning, "work".to_owned())]);
        assert_eq!(found("work.jq = '.'\norder.window = 10"), [(Level::Warning, "order.window".to_owned())]);
    }

    #[test]
    fn processes_without_a_lane_are_told_of() {
        for (fan_out, expected) in [(false, vec!["work.fan_out"]), (true, vec![])] {
            let toml = "work.jq = '.'\nlog.kafka = { 'bootstrap.servers' = '127.0.0.1:1' }\nwork.fan_out = ";
            let config = Config::parse(&format!("{toml}{fan_out}"), []).expect("it is right");
            let mut findings = Findings::default();
            findings.worker(&config);
            assert_eq!(findings.0.iter().map(|finding| finding.key.as_str()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn properties_of_kafka_are_judged_and_named_once() {
        let toml = "log.kafka = { 'bootstrap.servers' = '127.0.0.1:1', 'session.timeout.ms' = 9000, \
                    'delivery.timeout.ms' = 9000, 'transaction.timeout.ms' = 5000 }";
        let mut findings = Findings::default();
        findings.kafka(&Config::parse(toml, []).expect("each by itself is right"));
        let text = text(&findings.0);
        assert!(text.starts_with("warning: log.kafka: session.timeout.ms is 9000, not 6000"), "{text}");
        assert!(text.contains("error: log.kafka: ") && text.contains("transaction.timeout.ms"), "{text}");
    }

    #[test]
    fn what_all_topics_have_in_common_is_told_once() {
        let topics = Config::parse("", []).expect("all has a default").topics();
        let keeping = Keeping { retention: Duration::from_secs(60), retention_bytes: None, max_body: 1 << 20 };
        let unwise = |reason: &str| Difference { refused: false, reason: reason.to_owned() };
        let found = |wanted: Wanted| process::Finding {
            partitions: Some(wanted.shape.partitions),
            wanted,
            differences: vec![unwise("of all")],
        };
        let mut all: Vec<_> = topics.wanted(&keeping).into_iter().map(found).collect();
        all[1].differences.push(unwise("of one"));
        // What is not there has nothing in common with anything.
        all[2].partitions = None;
        all[2].differences.clear();
        let mut findings = Findings::default();
        findings.topics(&all);
        let one = format!("warning: log.kafka: topic {}: of one\n", all[1].wanted.topic);
        assert_eq!(text(&findings.0), one + "warning: log.kafka: all topics: of all\n");
    }

    #[test]
    fn ports_in_use_are_told() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = other.local_addr().expect("it is bound");
        let config = format!("work.jq = '.'\nadmin.listen = '127.0.0.1:0'\ningress.http = '{address}'");
        let found = findings(&Config::parse(&config, []).expect("it is right"));
        assert!(text(&found).starts_with("warning: ingress.http: 127.0.0.1:"), "{}", text(&found));
    }
}
