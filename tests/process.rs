//! The process as a whole, as a library: starting, health, ending, and what is in the way.

use std::path::Path;
use std::time::Duration;

use seriatim::process::config::Config;
use seriatim::process::{Error, Process, Role, Roles};

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

/// Asks the admin port, with the simplest client there is.
async fn get(process: &Process, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(process.admin_address()).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
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
        let metrics = get(&process, "/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"), "{metrics}");
        assert!(metrics.contains("seriatim_build_info{version=\""), "{metrics}");
        process.drain().await.expect("it ends in time");
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
async fn what_this_build_does_not_have_is_said() {
    let config = Config::parse("log.kafka = { 'bootstrap.servers' = 'k:9092' }\nadmin.listen = '127.0.0.1:0'", []);
    let config = config.expect("the parser takes it");
    let error = Process::start(&config, &Roles::from([Role::Work])).await.expect_err("there is no such engine");
    assert_eq!(
        error.to_string(),
        "log.kafka: this build has the embedded log only; give log.embedded a folder instead"
    );
}
