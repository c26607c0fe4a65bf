//! The wiring: from the configuration to the options of each stage, and the stages as roles.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Error;
use super::config::{self, Builtin, Config};
use super::role::{Role, Roles};
use crate::work::{self, Processor, builtin, exec::Exec, http::Http, jq::Jq};
use crate::{deliver, ingress, resequence};

/// The bytes of results that a lane may hold are its share of the process', but never less than
/// a few of the largest.
const RESULTS_MIN: usize = 4;

pub(super) fn ingress_options(config: &Config) -> Result<ingress::Options, Error> {
    let mut options = ingress::Options {
        max_body: config.ingress.max_body.in_memory(),
        max_connections: config.ingress.max_connections.get() as usize,
        lanes: Some(resequence_options(config)),
        ..Default::default()
    };
    let quota = |quota: config::Quota| ingress::Quota { messages: quota.messages, per: quota.per.get() };
    options.quota = config.ingress.quota.map(quota);
    if let Some(most) = config.ingress.max_connections_per_peer {
        options.max_connections_per_peer = most.get() as usize;
    }
    if let Some(path) = &config.ingress.tokens_file {
        let unusable = |reason: String| Error::File {
            key: "ingress.tokens_file",
            reason: format!("{}: {reason}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        options.tokens = Some(ingress::Tokens::parse(&text).map_err(|error| unusable(error.to_string()))?);
    }
    Ok(options)
}

/// TLS for the data port. Who shows no certificate needs a token, where there are any.
pub(super) fn http_tls(config: &Config) -> Result<Option<ingress::Tls>, Error> {
    let without = match config.ingress.tokens_file {
        Some(_) => ingress::WithoutCertificate::Taken,
        None => ingress::WithoutCertificate::Refused,
    };
    let tls = config.ingress.tls.as_ref();
    tls.map(|tls| read_tls(tls, "ingress.tls", without, ingress::Application::Http)).transpose()
}

/// The ports for framed messages.
pub(super) fn tcp_ports(config: &Config) -> Result<Vec<ingress::tcp::Options>, Error> {
    config.ingress.tcp.iter().map(tcp_port).collect()
}

fn tcp_port(port: &config::TcpPort) -> Result<ingress::tcp::Options, Error> {
    let mut options = ingress::tcp::Options::new(port.framing);
    options.ack = port.ack.unwrap_or(options.ack);
    options.window = port.window.map_or(options.window, |window| window.get() as usize);
    options.idle_timeout = port.idle_timeout.map_or(options.idle_timeout, config::Span::get);
    options.content_type.clone_from(&port.content_type);
    if let Some(principal) = &port.principal {
        options.principal = ingress::Principal::named(principal);
    }
    let config::Hl7 { key, dedupe, accepted, content, unavailable } = port.hl7.clone();
    options.hl7 = ingress::tcp::Hl7 { key: key.0, dedupe, accepted, content, unavailable };
    let without = ingress::WithoutCertificate::Refused;
    let tls = port.tls.as_ref();
    let tls = tls.map(|tls| read_tls(tls, "ingress.tcp.tls", without, ingress::Application::Frames)).transpose()?;
    options.tls = tls.map(Arc::new);
    Ok(options)
}

fn read_tls(
    tls: &config::Tls,
    key: &'static str,
    without_certificate: ingress::WithoutCertificate,
    application: ingress::Application,
) -> Result<ingress::Tls, Error> {
    let files = ingress::TlsFiles {
        certificate: tls.certificate_file.clone(),
        key: tls.key_file.clone(),
        client_ca: tls.client_ca_file.clone(),
        without_certificate,
    };
    ingress::Tls::read(files, application).map_err(|error| Error::File { key, reason: error.to_string() })
}

pub(super) fn work_options(config: &Config) -> work::Options {
    let (work, group) = (&config.work, format!("{}.work", config.name));
    work::Options {
        group,
        fan_out: work.fan_out,
        concurrency: work.concurrency.get() as usize,
        timeout: work.timeout.get(),
        retry: work::Retry {
            attempts: work.retry.attempts.get(),
            backoff: work.retry.backoff.get(),
            cap: work.retry.cap.get(),
        },
        max_output: config.ingress.max_body.in_memory(),
    }
}

/// The program that runs, even where its file has been replaced or removed meanwhile.
fn this_program() -> String {
    const RUNNING: &str = "/proc/self/exe";
    let named = || std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
    let found = if std::path::Path::new(RUNNING).exists() { None } else { named() };
    found.unwrap_or_else(|| RUNNING.to_owned())
}

/// Who works on records. Programs are started only where this process has the role.
pub(super) fn processor(config: &Config, roles: &Roles) -> Result<Arc<dyn Processor>, Error> {
    if !roles.contains(&Role::Work) {
        return Ok(Arc::new(builtin::Echo));
    }
    let work = &config.work;
    let max_output = config.ingress.max_body.in_memory();
    if let Some(http) = &work.http {
        let url = http.url.as_str().to_owned();
        let options = work::http::Options { url, connections: work.concurrency.get() as usize, max_output };
        return Ok(Arc::new(Http::new(options).map_err(|error| Error::Worker(error.to_string()))?));
    }
    if let Some(exec) = &work.exec {
        let processes = exec.processes.get() as usize;
        let options = work::exec::Options { command: exec.command.clone(), processes, max_output };
        return Ok(Arc::new(Exec::start(&options).map_err(|error| Error::Worker(error.to_string()))?));
    }
    if let Some(filter) = &work.jq {
        // Ends before the attempt does, so that the failure says that it was the filter.
        let patience = work.timeout.get().mul_f64(0.9);
        let command = vec![this_program(), work::jq::VERB.to_owned()];
        let options = work::jq::Options { filter: filter.clone(), command, patience, max_output };
        return Ok(Arc::new(Jq::new(options).map_err(|error| Error::Worker(error.to_string()))?));
    }
    Ok(match &work.builtin {
        Some(Builtin::Sleep(span)) => Arc::new(builtin::Sleep(span.get())),
        Some(Builtin::Echo) | None => Arc::new(builtin::Echo),
    })
}

pub(super) fn resequence_options(config: &Config) -> resequence::Options {
    let order = &config.order;
    let max_output = config.ingress.max_body.in_memory();
    let share = order.memory.in_memory() / config.log.partitions.get() as usize;
    resequence::Options {
        by: match &order.by {
            config::By::Lane => resequence::Scope::Lane,
            config::By::Destination => resequence::Scope::Destination,
            config::By::Key => resequence::Scope::Key,
            config::By::Header(name) => resequence::Scope::Header(name.clone()),
            config::By::None => resequence::Scope::None,
        },
        on_failure: match order.on_failure {
            config::OnFailure::Halt => resequence::OnFailure::Halt,
            config::OnFailure::DeadLetter => resequence::OnFailure::DeadLetter,
            config::OnFailure::Skip => resequence::OnFailure::Skip,
        },
        window: order.window.get().into(),
        memory: share.max(RESULTS_MIN * max_output),
        deadline: config.work.deadline.get(),
        batch_window: config.batch.window.get(),
        batch_events: config.batch.events.as_ref().map(|destination| resequence::BatchEvents {
            destination: destination.to_string(),
            items: config.batch.item_events,
        }),
        fan_out: config.work.fan_out,
        max_output,
        ..Default::default()
    }
}

/// The destinations that are pushed to, by name, or the first that cannot be.
pub(super) fn pushed(config: &Config) -> Result<BTreeMap<String, deliver::Destination>, Error> {
    receivers(config).collect()
}

/// Each destination that is to be pushed to, or why it cannot be.
pub(super) fn receivers(config: &Config) -> impl Iterator<Item = Result<(String, deliver::Destination), Error>> {
    let pushed = config.destinations.iter().filter_map(|(name, d)| Some((name, d.push.as_ref()?)));
    let receiver = |(name, push): (&config::DestinationName, &config::Push)| {
        let destination = match (&push.http, &push.tcp) {
            (Some(http), _) => over_http(http, push),
            (None, Some(tcp)) => over_tcp(tcp, push),
            // The configuration was checked for it.
            (None, None) => return None,
        };
        Some(match destination {
            Ok(destination) => Ok((name.to_string(), destination)),
            Err(reason) => Err(Error::Destination { name: name.to_string(), reason }),
        })
    };
    pushed.filter_map(receiver)
}

fn over_http(http: &config::HttpPush, push: &config::Push) -> Result<deliver::Destination, deliver::BadOptions> {
    let mut options = push_options(http.url.as_str(), push);
    options.http.secret_files = http.secret_file.iter().cloned().collect();
    options.http.allow_private = http.allow_private;
    options.http.content = match http.content {
        config::Content::Raw => deliver::Content::Raw,
        config::Content::CloudEvents => deliver::Content::CloudEvents,
        config::Content::CloudEventsStructured => deliver::Content::CloudEventsStructured,
    };
    options.batch = http.batch.try_into().unwrap_or(std::num::NonZeroUsize::MAX);
    options.concurrency = http.concurrency.try_into().unwrap_or(std::num::NonZeroUsize::MAX);
    options.timeout = http.timeout.get();
    deliver::Destination::http(options)
}

fn over_tcp(tcp: &config::TcpPush, push: &config::Push) -> Result<deliver::Destination, deliver::BadOptions> {
    let mut options = push_options(tcp.address.as_str(), push);
    options.timeout = tcp.timeout.get();
    options.concurrency = tcp.connections.try_into().unwrap_or(std::num::NonZeroUsize::MAX);
    let receiver = deliver::TcpOptions {
        address: tcp.address.as_str().to_owned(),
        framing: tcp.framing,
        ack: tcp.ack,
        tls: tcp.tls,
        allow_private: tcp.allow_private,
        connect_timeout: options.http.connect_timeout,
    };
    deliver::Destination::tcp(&receiver, options)
}

fn push_options(receiver: &str, push: &config::Push) -> deliver::Options {
    let mut options = deliver::Options::new(receiver);
    options.order = match push.order {
        config::PushOrder::Group => deliver::Order::Group,
        config::PushOrder::Lane => deliver::Order::Lane,
        config::PushOrder::Key => deliver::Order::Key,
        config::PushOrder::None => deliver::Order::None,
    };
    options.rate = push.rate.map(|rate| deliver::Rate { items: rate.messages, per: rate.per.get() });
    options.progress = match push.progress {
        config::Progress::Item => deliver::Progress::Item,
        config::Progress::Batch => deliver::Progress::Batch,
    };
    options.on_failure = match push.on_failure {
        config::OnFailure::Halt => deliver::OnFailure::Halt,
        config::OnFailure::DeadLetter => deliver::OnFailure::DeadLetter,
        config::OnFailure::Skip => deliver::OnFailure::Skip,
    };
    options.start = match push.start {
        config::Start::Beginning => deliver::Start::Beginning,
        config::Start::End => deliver::Start::End,
    };
    options.retry_after_max = push.retry.retry_after_max.get();
    options.retry =
        deliver::Retry { backoff: push.retry.backoff.get(), cap: push.retry.cap.get(), attempts: push.retry.attempts };
    options
}

/// The name of this process in groups, results and logs: `HOST-PID`.
pub(super) fn member() -> String {
    // Linux has it there; elsewhere the process id has to do.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "localhost" } else { host }, std::process::id())
}
