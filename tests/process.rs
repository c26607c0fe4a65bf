//! The process as a whole, as a library: starting, health, ending, and what is in the way.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use seriatim::process::config::Config;
use seriatim::process::{Engine, Error, Process, Role, Roles};
use seriatim::record::Partition;
use seriatim::work::builtin::Sleep;

/// A configuration of its own ports and folder.
fn config(folder: &Path, more: &str) -> Config {
    let text = format!(
        "log.embedded = '{}'\ningress.http = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\nwork.builtin = 'echo'\n{more}",
        folder.display()
    );
    Config::parse(&text, []).expect("it is right")
}

fn roles(config: &Config) -> Roles {
    Role::needed(config)
}

/// Asks the admin port.
async fn get(process: &Process, path: &str) -> String {
    ask(process.admin_address(), "GET", path, "", "").await
}

/// Asks the data port.
async fn data(process: &Process, method: &str, path: &str, body: &str) -> String {
    ask(process.data_address().expect("it takes messages in"), method, path, "", body).await
}

/// Gives an operator's order; status line and detail.
async fn order(process: &Process, path: &str, body: &serde_json::Value) -> String {
    let json = "content-type: application/json\r\n";
    ask(process.admin_address(), "POST", path, json, &body.to_string()).await
}

/// The simplest client there is; each of the headers ends with a line's end.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_becomes_ready_and_ends_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder.path().join("log"), "");
    for _ in 0..2 {
        // Twice, for the second one finds the folder let go by the first.
        let process = Process::start(&config, &roles(&config)).await.expect("nothing is in the way");
        assert!(get(&process, "/livez").await.starts_with("HTTP/1.1 200"));
        let ready = async {
            while !get(&process, "/readyz").await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("it becomes ready");
        assert!(process.is_ready());
        let metrics = get(&process, "/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"), "{metrics}");
        assert!(metrics.contains("seriatim_build_info{version=\""), "{metrics}");
        process.drain().await.expect("it ends in time");
    }
}

/// Space cannot be made scarce here, but the reserve can be larger than any disk.
#[tokio::test(flavor = "multi_thread")]
async fn while_messages_are_refused_it_is_not_ready_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder.path().join("log"), "log.reserve = '9000PB'");
    let process = Process::start(&config, &roles(&config)).await.expect("nothing is in the way");
    while !process.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = data(&process, "POST", "/v1/messages", "a").await;
    for answer in [get(&process, "/readyz").await, refused] {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("disk nearly full"), "{answer}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("it is bound");
    let mut config = config(folder.path(), "");
    config.admin.listen = address.to_string().try_into().expect("an address");
    let error = Process::start(&config, &roles(&config)).await.expect_err("the port is taken").to_string();
    assert!(error.starts_with(&format!("cannot listen at {address} (admin.listen): ")), "{error}");
    assert!(error.ends_with("end it or choose another port"), "{error}");
}

#[tokio::test]
async fn a_folder_in_use_or_foreign_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let config_here = config(&folder.path().join("log"), "");
    let first = Process::start(&config_here, &roles(&config_here)).await.expect("nothing is in the way");
    let error = Process::start(&config_here, &roles(&config_here)).await.expect_err("the folder is in use");
    assert!(matches!(error, Error::Open(_)) && error.to_string().contains("is in use by"), "{error}");
    drop(first);

    let other = tempfile::tempdir().expect("a folder");
    std::fs::write(other.path().join("diary.txt"), "dear diary").expect("it can be written");
    let foreign = config(other.path(), "");
    let error = Process::start(&foreign, &roles(&foreign)).await.expect_err("it is no log").to_string();
    assert!(error.contains("diary.txt"), "{error}");
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("log");
    let two = config(&folder, "log.partitions = 2");
    Process::start(&two, &roles(&two)).await.expect("nothing is in the way").drain().await.expect("it ends in time");
    let three = config(&folder, "log.partitions = 3");
    let error = Process::start(&three, &roles(&three)).await.expect_err("it was made with two").to_string();
    assert!(error.contains("seriatim.") && error.contains('2') && error.contains('3'), "{error}");
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_said() {
    let config = Config::parse("log.kafka = { 'bootstrap.servers' = 'k:9092' }\nadmin.listen = '127.0.0.1:0'", []);
    let config = config.expect("the parser takes it");
    let error = Engine::open(&config).await.expect_err("nobody is there");
    assert_eq!(error.to_string(), "no Kafka broker answers; log.kafka says where they should be");
}

/// The bodies in the ordered output.
async fn outputs(process: &Process) -> Vec<String> {
    let answer = data(process, "GET", "/v1/outputs/default?lane=0&from=0", "").await;
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    let bodies = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON")["body"].clone());
    bodies.map(|body| body.as_str().expect("it was text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_worked_on_when_it_ended_leaves_once_and_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder.path().join("log"), "");
    let config = Config { work: seriatim::process::config::Work { builtin: None, ..config.work }, ..config };
    let sent: Vec<String> = (0..30).map(|number| format!("message {number}")).collect();

    // Work that never ends: the drain gives it up, as a crash would.
    let stuck = Arc::new(Sleep(Duration::from_secs(3600)));
    let short = Config { process: short_drain(), ..config.clone() };
    let process = Process::start_with(&short, &roles(&short), stuck.clone()).await.expect("nothing is in the way");
    for body in &sent[..10] {
        assert!(data(&process, "POST", "/v1/messages", body).await.starts_with("HTTP/1.1 202"));
    }
    let error = process.drain().await.expect_err("the work has no end");
    assert!(matches!(&error, Error::DrainTimedOut { roles, .. } if *roles == [Role::Work]), "{error}");

    let process = Process::start_with(&short, &roles(&short), stuck).await.expect("nothing is in the way");
    for body in &sent[10..20] {
        assert!(data(&process, "POST", "/v1/messages", body).await.starts_with("HTTP/1.1 202"));
    }
    process.drain().await.expect_err("the work has no end");

    let process = Process::start(&config, &roles(&config)).await.expect("nothing is in the way");
    for body in &sent[20..] {
        assert!(data(&process, "POST", "/v1/messages?wait=60s", body).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(outputs(&process).await, sent);
    process.drain().await.expect("it ends in time");
}

fn short_drain() -> seriatim::process::config::Process {
    let text = "process.drain = '200ms'";
    Config::parse(text, []).expect("it is right").process
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_pushed_in_order() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let receiver = listener.local_addr().expect("it is bound");
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(100);
    let receive = async move |body: String| arrived.send(body).await.expect("the test listens");
    tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(receive)).await });

    let folder = tempfile::tempdir().expect("a folder");
    let push = format!("destinations.default.push.http = {{ url = 'http://{receiver}/', allow_private = true }}");
    let config = config(&folder.path().join("log"), &push);
    assert!(roles(&config).contains(&Role::Deliver), "what is pushed needs somebody to push it");
    let process = Process::start(&config, &roles(&config)).await.expect("nothing is in the way");
    for number in 0..20 {
        assert!(data(&process, "POST", "/v1/messages", &number.to_string()).await.starts_with("HTTP/1.1 202"));
    }
    for number in 0..20 {
        let next = tokio::time::timeout(Duration::from_secs(30), arrivals.recv());
        assert_eq!(next.await.expect("it is pushed"), Some(number.to_string()));
    }
    process.drain().await.expect("it ends in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_is_refused_before_it_is_written_where_it_cannot_be_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { process: short_drain(), ..config(&folder.path().join("log"), "ingress.max_body = '3MiB'") };
    let never = Arc::new(Sleep(Duration::from_secs(3600)));
    let process = Process::start_with(&config, &roles(&config), never).await.expect("nothing is in the way");
    assert!(data(&process, "POST", "/v1/messages", "stuck").await.starts_with("HTTP/1.1 202"));
    let live = async {
        while !get(&process, "/v1/lanes/0").await.contains("\"inProgress\":1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), live).await.expect("it is admitted");
    let control = process.topics().control.partition(Partition(0));
    let before = process.log().bounds(&control).await.expect("it exists").end;

    let body = |bytes: usize| BASE64_STANDARD.encode(vec![b'x'; bytes]);
    let replace = |body: String| json!({"offsets": [0], "bodyBase64": body, "contentType": "text/plain"});
    for (wrong, status, why) in [
        (replace(body(3 << 20)), "413", "a replacement has 2506752 at most; nothing was done"),
        (replace("no base64!".to_owned()), "400", "bodyBase64: "),
        (json!({"offsets": "all"}), "422", "offsets: invalid type"),
    ] {
        let answer = order(&process, "/v1/lanes/0/replace", &wrong).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(why), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(process.log().bounds(&control).await.expect("it exists").end, before, "nothing was written");

    let answer = order(&process, "/v1/lanes/0/replace", &replace(body(2_506_752))).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"executed\":true"), "{answer}");
    let sent = async {
        while outputs(&process).await.first().map(String::len) != Some(2_506_752) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), sent).await.expect("it leaves instead of a result");
}

/// A port that is free, and was just now another's.
fn free_port() -> u16 {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    taken.local_addr().expect("it is bound").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_broker_answers_it_lives_says_so_and_takes_nothing_in() {
    let (admin, data, frames, broker) = (free_port(), free_port(), free_port(), free_port());
    let config = format!(
        "log.kafka = {{ 'bootstrap.servers' = '127.0.0.1:{broker}' }}\nadmin.listen = '127.0.0.1:{admin}'\n\
         ingress.http = '127.0.0.1:{data}'\nwork.builtin = 'echo'\n\
         ingress.tcp = [{{ listen = '127.0.0.1:{frames}', framing = 'newline' }}]"
    );
    let config = Config::parse(&config, []).expect("it is right");
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    // Longer than the start asks for; what is looked at takes milliseconds once the port listens.
    let looked = async {
        while tokio::net::TcpStream::connect(address(admin)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let get = async |path| ask(address(admin), "GET", path, "", "").await;
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        let ready = get("/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("waiting for the log"), "{ready}");
        assert!(get("/metrics").await.starts_with("HTTP/1.1 200"));
        assert!(get("/v1/lanes").await.starts_with("HTTP/1.1 503"));
        for port in [data, frames] {
            let refused = tokio::net::TcpStream::connect(address(port)).await.expect_err("nothing is taken in");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    };
    let roles = roles(&config);
    tokio::select! {
        biased;
        () = looked => {}
        started = Process::start(&config, &roles) => panic!("it should still wait: {started:?}"),
    }
}
