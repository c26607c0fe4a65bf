//! A real HTTP worker in a process of its own: `seriatim bench worker`.

use std::process::Stdio;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::super::Exit;
use super::super::shared::{out, runtime};
use super::task::work_of;

/// Serves until it is ended: says where, waits as each message says, answers with its body.
pub(super) fn serve(listen: &str) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let listener =
            tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
        out(format!("http://{}/work\n", listener.local_addr()?))?;
        let work = async |body: Bytes| {
            tokio::time::sleep(work_of(&body)).await;
            body
        };
        axum::serve(listener, Router::new().route("/work", post(work))).await?;
        Ok(Exit::Ok)
    })
}

/// A worker process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Worker {
    _child: Child,
    pub(super) url: String,
}

impl Worker {
    /// Starts this program as a worker and learns where it listens.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's file is not known")?;
        let mut command = Command::new(program);
        command.args(["bench", "worker"]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the worker cannot be started")?;
        let stdout = child.stdout.take().context("the worker's output is piped")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let url = line.context("the worker ended before it listened")?;
        Ok(Self { _child: child, url })
    }
}
