//! Pushes a second: of one group, and of many.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::program::Program;
use crate::receiver::Receivers;

/// Within which what was accepted is worked on and released.
const SETTLE: Duration = Duration::from_secs(2);

/// How long each run may take at most.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure() {
    for progress in ["item", "batch"] {
        run("one group", progress, "lane", "", 4_000).await;
        run("1,000 groups", progress, "key", "concurrency = 256, ", 30_000).await;
    }
}

async fn run(what: &str, progress: &str, by: &str, more: &str, messages: usize) {
    let receivers = Receivers::default();
    let listening = receivers.listen(([127, 0, 0, 1], 0).into()).await;
    let at = listening.at;
    let program = Program::start(&format!(
        "order.by = \"{by}\"\nwork.builtin = \"echo\"\n[destinations.default.push]\nprogress = \"{progress}\"\n\
         http = {{ url = \"http://{at}/\", {more}timeout = \"60s\", allow_private = true }}\n"
    ));
    // All of it waits before the first is pushed that counts.
    receivers.hold(true);
    upload(&program, messages).await;
    sleep(SETTLE).await;
    receivers.hold(false);
    while receivers.count() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let (begun, first) = (Instant::now(), receivers.count());
    while receivers.count() < messages {
        assert!(begun.elapsed() < PATIENCE, "{} of {messages} came", receivers.count());
        sleep(Duration::from_millis(1)).await;
    }
    let rate = (messages - first) as f64 / begun.elapsed().as_secs_f64();
    println!("{what}, progress = {progress:?}: {rate:.0} pushes/s; memory at most {} MiB", program.memory().1);
}

/// Messages under a thousand keys in turns.
async fn upload(program: &Program, messages: usize) {
    let clients = (0..64).map(|first| async move {
        let mut client = Client::new(program.data);
        for message in (first..messages).step_by(64) {
            let header = format!("seriatim-key: k{}\r\n", message % 1000);
            let answer = client.post(&header, &format!("{{\"n\":{message}}}")).await.expect("it is answered");
            assert_eq!(answer.status, 202, "{}", answer.head);
        }
    });
    futures::future::join_all(clients).await;
}
