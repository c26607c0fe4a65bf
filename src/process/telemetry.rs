//! Log lines: to standard error, as text or JSON, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::config::LogFormat;

/// Starts logging for the whole program. Does nothing where a subscriber is installed already, as
/// embedding programs do.
pub fn start(format: LogFormat) {
    // Our own at info, those of libraries only when something is wrong.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,seriatim=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error says that there is a subscriber, which is then the one to use.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(may_colour(&std::io::stderr())).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Whether a stream is for human eyes that have not asked to be spared colours (`NO_COLOR`).
#[must_use]
pub fn may_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
