//! A client that keeps one connection, and costs little.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One connection, dialled when it is needed.
pub(crate) struct Client {
    to: SocketAddr,
    stream: Option<TcpStream>,
    space: Vec<u8>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header block.
    pub(crate) head: String,
}

impl Answer {
    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&format!("\r\n{header}:"))
    }
}

impl Client {
    pub(crate) const fn new(to: SocketAddr) -> Self {
        Self { to, stream: None, space: Vec::new() }
    }

    /// Posts a message; `None` where the connection broke, so that it is not known whether it was taken.
    pub(crate) async fn post(&mut self, headers: &str, body: &str) -> Option<Answer> {
        let length = body.len();
        let request =
            format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}");
        let answer = self.exchange(request.as_bytes()).await;
        if answer.as_ref().is_none_or(|answer| answer.has("connection")) {
            self.stream = None;
        }
        answer
    }

    async fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.to).await.ok()?;
                stream.set_nodelay(true).ok()?;
                self.stream.insert(stream)
            }
        };
        stream.write_all(request).await.ok()?;
        self.space.clear();
        loop {
            let head = self.space.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            if let Some(end) = head {
                let head = String::from_utf8_lossy(&self.space[..end]).into_owned();
                let length = head.to_ascii_lowercase();
                let length = length.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next());
                let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                if self.space.len() >= end + length {
                    let status = head.get(9..12).and_then(|text| text.parse().ok())?;
                    return Some(Answer { status, head });
                }
            }
            stream.read_buf(&mut self.space).await.ok().filter(|read| *read > 0)?;
        }
    }
}
