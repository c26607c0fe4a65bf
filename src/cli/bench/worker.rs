//! The worker that is measured with: a process of its own, called over HTTP.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::Exit;

/// Serve as the worker of a benchmark
#[derive(Clone, Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim bench-worker

Takes as many microseconds as the first word of a body says, and answers with the body.
Prints its port, and ends when its standard input does.")]
pub(in crate::cli) struct BenchWorker {}

#[allow(clippy::unused_self)] // as every verb
impl BenchWorker {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<Exit> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
    }
}

async fn serve() -> anyhow::Result<Exit> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let work = async |body: Bytes| {
        let micros =
            body.split(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        tokio::time::sleep(Duration::from_micros(micros.unwrap_or(0))).await;
        body
    };
    let router = Router::new().route("/", post(work));
    let parent = async {
        // Ends with whoever started it, however that ended.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(parent).await?;
    Ok(Exit::Ok)
}

/// A running worker; ends when dropped.
pub(super) struct Spawned {
    pub(super) url: String,
    _child: Child,
}

impl Spawned {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg("bench-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a worker")?;
        let stdout = child.stdout.take().context("the worker has no output")?;
        let port = BufReader::new(stdout).lines().next_line().await?.context("the worker did not start")?;
        Ok(Self { url: format!("http://127.0.0.1:{port}/"), _child: child })
    }
}
