//! Answers that come piece by piece: lines, and outputs that are followed.

mod events;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::{Method, Response, header};
use tokio_util::codec::{AnyDelimiterCodec, FramedRead};
use tokio_util::io::StreamReader;

use super::client::Client;
use super::{Exit, Failure};
use events::Events;

/// The longest line of outputs taken from a process: its largest output, twice as base64, and its headers.
pub(super) const MAX_OUTPUT: usize = 64 << 20;

/// The pause before a broken stream is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// How often in a row it is asked for in vain before giving up: half a minute.
const ATTEMPTS: u32 = 60;

/// The lines of an answer, without their ends; blank ones too. One that is too long ends them with an error.
pub(super) type Lines = BoxStream<'static, anyhow::Result<Bytes>>;

pub(super) fn lines(response: Response, longest: usize) -> Lines {
    let body = response.bytes_stream().map(|piece| piece.map_err(std::io::Error::other));
    let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), longest);
    FramedRead::new(StreamReader::new(body), codec).map(|line| Ok(line?)).boxed()
}

/// A stream of events that is taken up again where it broke. What is refused stays so.
pub(super) struct Follow {
    client: Client,
    path: String,
    stream: Option<(Lines, Events)>,
    last: Option<String>,
    failures: u32,
}

impl Follow {
    /// Asks for the events at a path.
    ///
    /// # Errors
    ///
    /// Where the process is not there or refuses.
    pub(super) async fn open(client: Client, path: String) -> Result<Self, Failure> {
        let stream = Some(Self::ask(&client, &path, None).await?);
        Ok(Self { client, path, stream, last: None, failures: 0 })
    }

    /// The data of the next event.
    ///
    /// # Errors
    ///
    /// Where the stream broke and was asked for again in vain.
    pub(super) async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            let Some((lines, events)) = &mut self.stream else {
                tokio::time::sleep(PAUSE).await;
                self.again().await?;
                continue;
            };
            // A stream that breaks is asked for again, whatever broke it.
            let Some(Ok(line)) = lines.next().await else {
                self.stream = None;
                continue;
            };
            if let Some(event) = events.line(&line) {
                self.last = event.id.or(self.last.take());
                self.failures = 0;
                return Ok(event.data);
            }
        }
    }

    async fn again(&mut self) -> Result<(), Failure> {
        self.failures += 1;
        match Self::ask(&self.client, &self.path, self.last.as_deref()).await {
            Ok(_) if self.failures > ATTEMPTS => {
                return Err(Failure::new(Exit::TimedOut, format!("{} ends every stream", self.client.base())));
            }
            Ok(stream) => self.stream = Some(stream),
            Err(failure) if self.failures > ATTEMPTS || failure.exit == Exit::NotFound => return Err(failure),
            Err(_) => {}
        }
        Ok(())
    }

    async fn ask(client: &Client, path: &str, last: Option<&str>) -> Result<(Lines, Events), Failure> {
        let mut request = client.request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last {
            request = request.header("last-event-id", id);
        }
        Ok((lines(client.send(request).await?, MAX_OUTPUT), Events::default()))
    }
}

/// The path of the outputs of a destination.
pub(super) fn outputs(destination: &str, lane: Option<u32>, from: Option<&str>) -> String {
    path(&["v1", "outputs", destination], lane, from)
}

/// The path of the dead letters.
pub(super) fn dead_letters(lane: Option<u32>, from: Option<&str>) -> String {
    path(&["v1", "dead-letters"], lane, from)
}

fn path(segments: &[&str], lane: Option<u32>, from: Option<&str>) -> String {
    let lane = lane.map(|lane| lane.to_string());
    let query: Vec<(&str, &str)> = [("lane", lane.as_deref()), ("from", from)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    super::shared::path(segments, &query)
}
