//! `seriatim demo`: the founding case, live, in a temporary folder.
//!
//! A message every 250 ms, each taking 750 ms of work. One at a time, the queue would grow by half
//! a second each second; here each leaves about 750 ms after it came, in order.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Exit;
use super::bench::{Latencies, Pipeline, Setup, read, seconds};
use super::shared::is_live;

/// Show what it does: messages faster than one worker could take them, leaving in order
#[derive(Clone, Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim demo
  seriatim demo --seconds 10
  seriatim demo --rate 20 --work 2s --concurrency 100

Ctrl-C ends it with what was seen so far.")]
pub(super) struct Demo {
    /// Messages a second
    #[arg(long, default_value_t = 4.0, value_parser = rate)]
    rate: f64,
    /// How long each is worked on
    #[arg(long, default_value = "750ms", value_parser = humantime::parse_duration)]
    work: Duration,
    /// How long to send
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Messages being worked on at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=10_000.0).contains(&rate) { Ok(rate) } else { Err(format!("{rate} is not between 0.01 and 10000")) }
}

/// What has been seen so far.
struct Seen {
    work: Duration,
    sent: u64,
    /// When those that have not come back were sent, the oldest first.
    waiting: VecDeque<Instant>,
    latencies: Latencies,
    received: u64,
    last: Duration,
    /// When one worker alone would be done with everything sent so far.
    alone_until: Instant,
    alone: Duration,
}

impl Demo {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(&self) -> anyhow::Result<Exit> {
        let folder = tempfile::tempdir()?;
        let work = format!("builtin = {{ sleep = \"{}\" }}", humantime::format_duration(self.work));
        let (concurrency, order) = (self.concurrency, "lane".to_owned());
        let setup = Setup { folder: folder.path().to_owned(), work, concurrency, order };
        let pipeline = setup.start().await?;
        eprintln!(
            "{} messages a second, {} of work each, in order. One at a time would take {:.0} s for what comes in {} s.",
            self.rate,
            humantime::format_duration(self.work),
            self.rate * seconds(self.work) * self.seconds as f64,
            self.seconds,
        );
        let mut seen = self.watch(&pipeline).await?;
        pipeline.end().await?;
        println!("{}", seen.summary());
        Ok(Exit::Ok)
    }

    async fn watch(&self, pipeline: &Pipeline) -> anyhow::Result<Seen> {
        let (url, mut reader) = (pipeline.messages_url()?, pipeline.output().await?);
        let client = reqwest::Client::builder().no_proxy().build()?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both factors are bounded and positive
        let count = (self.rate * self.seconds as f64).ceil() as u64;
        let mut ticks = interval(Duration::from_secs_f64(1.0 / self.rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut refresh = interval(if is_live() { Duration::from_millis(100) } else { Duration::from_secs(5) });
        let mut seen = Seen::new(self.work);
        let screen = Screen::new();
        while seen.received < count {
            let mut bodies = Vec::new();
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => break,
                _ = ticks.tick(), if seen.sent < count => {
                    let body = seen.send();
                    let answer = client.post(&url).body(body).send().await?;
                    ensure!(answer.status().is_success(), "a message was answered with {}", answer.status());
                }
                done = read(&mut *reader, |body| bodies.push(body.to_vec())) => done?,
                _ = refresh.tick() => screen.show(&seen),
            }
            for body in bodies {
                seen.receive(&body)?;
            }
        }
        screen.clear();
        Ok(seen)
    }
}

impl Seen {
    fn new(work: Duration) -> Self {
        Self {
            work,
            sent: 0,
            waiting: VecDeque::new(),
            latencies: Latencies::default(),
            received: 0,
            last: Duration::ZERO,
            alone_until: Instant::now(),
            alone: Duration::ZERO,
        }
    }

    /// The next message; counts what one worker alone would make of it.
    fn send(&mut self) -> String {
        let now = Instant::now();
        self.alone_until = self.alone_until.max(now) + self.work;
        self.alone = self.alone_until - now;
        self.waiting.push_back(now);
        self.sent += 1;
        format!("message {}", self.sent - 1)
    }

    fn receive(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let expected = format!("message {}", self.received);
        ensure!(
            body == expected.as_bytes(),
            "out of order: {:?} came instead of {expected:?}",
            String::from_utf8_lossy(body)
        );
        self.received += 1;
        if let Some(sent) = self.waiting.pop_front() {
            self.last = sent.elapsed();
            self.latencies.add(self.last);
        }
        Ok(())
    }

    /// In the middle: those that are older than the work takes are ready and wait for their turn.
    fn under_way(&self) -> (usize, usize) {
        let ready = self.waiting.iter().filter(|sent| sent.elapsed() >= self.work).count();
        (self.waiting.len() - ready, ready)
    }

    fn summary(&mut self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| seconds(self.latencies.quantile(share)) * 1e3);
        let work = seconds(self.work) * 1e3;
        format!(
            "{} messages in, {} out, each in its place.\n\
             From sending to reading it in order: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms.\n\
             The work alone takes {work:.0} ms.\n\
             One at a time the last one would have waited {:.1} s.\n\
             Next: `seriatim run`, and README.md for your own worker.",
            self.sent,
            self.received,
            seconds(self.alone),
        )
    }
}

/// Where it is shown: bars on a terminal, else a line now and then.
struct Screen {
    bars: Option<[ProgressBar; 4]>,
}

impl Screen {
    fn new() -> Self {
        if !is_live() {
            return Self { bars: None };
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>12} {bar:30} {pos:>4}  {msg}");
        let style = style.expect("the template is a constant of this program");
        let bar = |name: &'static str| screen.add(ProgressBar::new(20).with_style(style.clone()).with_prefix(name));
        Self { bars: Some([bar("in progress"), bar("ready"), bar("released"), bar("delay")]) }
    }

    fn show(&self, seen: &Seen) {
        let (progress, ready) = seen.under_way();
        let alone = seconds(seen.alone);
        let Some([working, waiting, released, delay]) = &self.bars else {
            let last = seconds(seen.last);
            eprintln!(
                "sent {}, in progress {progress}, ready {ready}, released {}; delay {last:.3} s, one at a time {alone:.1} s",
                seen.sent, seen.received
            );
            return;
        };
        working.set_position(progress as u64);
        waiting.set_position(ready as u64);
        released.set_length(seen.sent.max(1));
        released.set_position(seen.received);
        delay.set_length(u64::try_from(seen.alone.as_millis()).unwrap_or(u64::MAX).max(1));
        delay.set_position(u64::try_from(seen.last.as_millis()).unwrap_or(u64::MAX));
        delay.set_message(format!("ms of {alone:.1} s one at a time"));
    }

    fn clear(&self) {
        for bar in self.bars.iter().flatten() {
            bar.finish_and_clear();
        }
    }
}
