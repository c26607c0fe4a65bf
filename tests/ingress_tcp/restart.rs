//! The real program, killed while messages come.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Program {
    child: Child,
    frames: String,
    http: String,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seriatim"))
            .arg("run")
            .current_dir(folder)
            .env_clear()
            .env("SERIATIM_INGRESS__HTTP", "127.0.0.1:0")
            .env("SERIATIM_ADMIN__LISTEN", "127.0.0.1:0")
            .env("SERIATIM_PROCESS__LOG", "json")
            .env("SERIATIM_INGRESS__TCP", "[{ listen = '127.0.0.1:0', framing = 'newline' }]")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut talk = BufReader::new(child.stderr.take().expect("it is piped"));
        let (mut frames, mut http) = (String::new(), String::new());
        while frames.is_empty() || http.is_empty() {
            let mut line = String::new();
            assert_ne!(talk.read_line(&mut line).expect("it is text"), 0, "it ended before it listened");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let address = event["address"].as_str().unwrap_or_default().to_owned();
            match event["message"].as_str() {
                Some("a port for frames listens") => frames = address,
                Some("the data port listens") => http = address,
                _ => {}
            }
        }
        // Nobody else reads what it says; its pipe must not fill up.
        std::thread::spawn(move || talk.read_to_string(&mut String::new()));
        Self { child, frames, http }
    }

    fn outputs(&self) -> Vec<serde_json::Value> {
        let mut stream = connect(&self.http);
        let request = b"GET /v1/outputs/default?lane=0&from=0 HTTP/1.0\r\nconnection: close\r\n\r\n";
        stream.write_all(request).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is text");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn connect(to: &str) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it is not zero");
    stream
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    let mut number = 0;
    for round in 0..3 {
        let mut program = Program::start(folder.path());
        let mut stream = connect(&program.frames);
        let mut answers = BufReader::new(stream.try_clone().expect("it can be shared"));
        let mut in_flight = std::collections::VecDeque::new();
        // Killed with messages on their way: those without an answer may be there or not.
        while acknowledged.len() < 200 * (round + 1) {
            for _ in 0..16 {
                let message = format!("message {number}");
                number += 1;
                stream.write_all(format!("{message}\n").as_bytes()).expect("it reads");
                in_flight.push_back(message);
            }
            for _ in 0..12 {
                let mut line = String::new();
                answers.read_line(&mut line).expect("it answers");
                let place: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
                let message = in_flight.pop_front().expect("answers come to messages");
                acknowledged.push((place["offset"].as_u64().expect("a number"), message));
            }
        }
        program.child.kill().expect("it is running");
    }
    let program = Program::start(folder.path());
    let last = acknowledged.last().expect("there are some").0;
    let began = tokio::time::Instant::now();
    let outputs = loop {
        let outputs = program.outputs();
        if outputs.iter().any(|output| output["source"]["offset"].as_u64() >= Some(last)) {
            break outputs;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the last acknowledged message is not released");
    };
    let at = |offset: u64| outputs.iter().find(|output| output["source"]["offset"] == offset);
    for (offset, message) in &acknowledged {
        let output = at(*offset).unwrap_or_else(|| panic!("{message} was acknowledged at {offset} and is not there"));
        assert_eq!(output["body"], message.as_str());
    }
    assert!(acknowledged.is_sorted_by_key(|(offset, _)| *offset), "the order is that of sending");
}
