//! The program as its users meet it: arguments, exit codes, what is on which stream, signals.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn seriatim(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
    command.args(arguments).current_dir(folder).env_clear().envs(env.iter().copied());
    command
}

fn output(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    seriatim(folder, arguments, env).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const FREE_PORTS: [(&str, &str); 2] =
    [("SERIATIM_INGRESS__HTTP", "127.0.0.1:0"), ("SERIATIM_ADMIN__LISTEN", "127.0.0.1:0")];

#[test]
fn a_bad_config_ends_with_64_and_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("seriatim.toml"), "[work]\nconcurency = 1\n").expect("it can be written");
    for verb in ["run", "check"] {
        let ended = output(folder.path(), &[verb], &[]);
        assert_eq!(ended.status.code(), Some(64), "{verb}");
        assert_eq!(
            text(&ended.stderr),
            "seriatim: seriatim.toml:2:1: work.concurency: there is no such key; did you mean `concurrency`?\n"
        );
        assert_eq!(text(&ended.stdout), "");
    }
    let named = output(folder.path(), &["check", "--config", "none.toml"], &[]);
    assert_eq!(named.status.code(), Some(64));
    assert!(text(&named.stderr).starts_with("seriatim: none.toml: cannot be read: "), "{}", text(&named.stderr));
}

#[test]
fn a_bad_command_line_ends_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [&["walk"][..], &["run", "--role", "dance"], &["check", "--dump", "--json"], &[]] {
        assert_eq!(output(folder.path(), arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn check_prints_findings_for_programs_and_the_config_in_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let ended = output(folder.path(), &["check", "--json"], &FREE_PORTS);
    let findings: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("it is JSON");
    assert_eq!(findings[0]["level"], "warning", "{findings}");
    assert_eq!(ended.status.code(), Some(0), "a warning is no failure");
    let broken = [("SERIATIM_WORK__EXEC", "{ command = ['no-such-program'] }")];
    assert_eq!(output(folder.path(), &["check"], &broken).status.code(), Some(1));
    let dump = output(folder.path(), &["check", "--dump"], &[("SERIATIM_NAME", "shop")]);
    assert!(text(&dump.stdout).starts_with("name = \"shop\"\n"), "{}", text(&dump.stdout));
}

/// A `seriatim run` that has said where its admin port listens.
struct Running {
    child: Child,
    talk: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(folder: &Path, env: &[(&str, &str)]) -> Self {
        let env = [&FREE_PORTS, env].concat();
        let mut child = seriatim(folder, &["run"], &env).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut talk = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("the admin port listens") {
            line.clear();
            assert_ne!(talk.read_line(&mut line).expect("it is text"), 0, "it ended before it listened");
        }
        Self { child, talk }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is running");
    }

    /// Waits for its end: the exit code, and what it said from now on.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.talk.read_to_string(&mut rest).expect("it is text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

#[test]
fn a_signal_ends_it_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    for signal in [Signal::TERM, Signal::INT] {
        let running = Running::start(folder.path(), &[]);
        running.signal(signal);
        let (code, talk) = running.end();
        assert_eq!(code, Some(0), "{talk}");
        assert!(talk.contains("ended in order"), "{talk}");
    }
}

#[test]
fn log_lines_can_be_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = Running::start(folder.path(), &[("SERIATIM_PROCESS__LOG", "json")]);
    running.signal(Signal::TERM);
    let (_, talk) = running.end();
    for line in talk.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(line["message"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_second_program_on_the_same_folder_says_who_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = Running::start(folder.path(), &[]);
    let second = output(folder.path(), &["run"], &FREE_PORTS);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("seriatim-data is in use by process {}", running.child.id());
    assert!(text(&second.stderr).contains(&expected), "{}", text(&second.stderr));
    let checked = text(&output(folder.path(), &["check"], &FREE_PORTS).stdout);
    assert!(checked.contains("warning: log.embedded: ") && checked.contains(&expected), "{checked}");
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_log_that_the_configuration_does_not_fit_ends_with_64() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = Running::start(folder.path(), &[]);
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
    std::fs::create_dir(folder.path().join("home")).expect("it can be made");
    std::fs::write(folder.path().join("home/thesis.doc"), "mine").expect("it can be written");
    for (key, value, says) in
        [("SERIATIM_LOG__PARTITIONS", "3", "put 1 back"), ("SERIATIM_LOG__EMBEDDED", "home", "thesis.doc")]
    {
        for verb in ["run", "verify"] {
            let ended = output(folder.path(), &[verb], &[&FREE_PORTS[..], &[(key, value)]].concat());
            let said = text(&ended.stderr);
            assert_eq!(ended.status.code(), Some(64), "{verb}: {said}");
            assert!(said.contains(says), "{verb}: {said}");
        }
    }
}

#[test]
fn wrong_properties_of_kafka_end_with_64_without_a_broker() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = |more: &str| format!("{{ \"bootstrap.servers\" = \"127.0.0.1:1\", {more} }}");
    for (more, expected) in [
        ("\"no.such\" = 1", "seriatim: SERIATIM_LOG__KAFKA: log.kafka.no.such: librdkafka has no such property"),
        ("\"linger.ms\" = \"abc\"", "seriatim: SERIATIM_LOG__KAFKA: log.kafka.linger.ms: "),
        ("\"delivery.timeout.ms\" = 60000", "seriatim: log.kafka: "),
    ] {
        let given = with(more);
        let env = [FREE_PORTS[0], FREE_PORTS[1], ("SERIATIM_LOG__KAFKA", &given)];
        let ended = output(folder.path(), &["run"], &env);
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(64), "{more}: {said}");
        assert!(said.contains(expected), "{more}: {said}");
    }
}

#[test]
fn the_example_with_a_password_is_taken_as_printed() {
    const PAGE: &str = include_str!("../docs/kafka.md");
    let folder = tempfile::tempdir().expect("a folder");
    let example = PAGE.split("```toml\n").find(|part| part.contains("sasl.username")).expect("there is one");
    let (example, after) = example.split_once("```").expect("it ends");
    std::fs::write(folder.path().join("seriatim.toml"), example).expect("it can be written");
    let (_, variable) = after.split_once("export ").expect("the page says how the password is given");
    let (variable, _) = variable.split_once('=').expect("it has a value");
    let env = [FREE_PORTS[0], FREE_PORTS[1], (variable, "hush")];
    let checked = output(folder.path(), &["check"], &env);
    let (said, told) = (text(&checked.stdout), text(&checked.stderr));
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error")).collect();
    // All that is wrong with it is that its brokers are an example's.
    assert_eq!(errors, ["error: log.kafka: no Kafka broker answers; log.kafka says where they should be"], "{told}");
    let dump = text(&output(folder.path(), &["check", "--dump"], &env).stdout);
    assert!(dump.contains("SCRAM-SHA-256") && !dump.contains("hush"), "{dump}");
    let without = output(folder.path(), &["check"], &FREE_PORTS);
    assert!(text(&without.stdout).contains("sasl.password"), "{}", text(&without.stdout));
}
