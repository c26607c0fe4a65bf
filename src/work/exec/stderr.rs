//! What a child says on its standard error.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longer lines are logged in pieces.
const MAX_LINE: usize = 8 * 1024;

/// Logs it line by line until it ends. It is bounded whatever the child does.
pub(super) async fn forward(mut from: impl AsyncRead + Unpin, number: usize) {
    let mut held = Vec::with_capacity(MAX_LINE);
    let mut chunk = [0; 2048];
    // An error ends it as its end does: there is nothing more to be heard.
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        for byte in &chunk[..read] {
            if *byte == b'\n' || held.len() == MAX_LINE {
                log(&mut held, number);
            }
            if *byte != b'\n' {
                held.push(*byte);
            }
        }
    }
    log(&mut held, number);
}

fn log(line: &mut Vec<u8>, number: usize) {
    if !line.is_empty() {
        tracing::info!(process = number, "worker: {}", String::from_utf8_lossy(line).trim_end());
        line.clear();
    }
}
