//! The process: configuration, roles and their wiring, drain, admin port, telemetry.
//!
//! [`Process`] is what `seriatim run` runs, and what a program that embeds the library starts
//! instead of it. It makes no use of signals, exit codes or global state but the metrics.

pub mod admin;
pub mod config;
mod engine;
mod error;
mod joined;
pub mod layout;
mod listen;
mod lost;
pub mod operate;
mod patience;
pub mod readiness;
mod retention;
mod role;
mod running;
pub mod secret;
pub mod signal;
pub mod telemetry;
mod wiring;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

pub use engine::{Engine, Finding};
pub use error::Error;
pub use lost::Lost;
pub use role::{Role, Roles};
pub use running::{RoleError, Running};

use crate::log::Log;
use crate::log::embedded::Embedded;
use crate::topics::Topics;
use crate::work::{self, Processor};
use crate::{deliver, ingress, resequence};
use admin::{Admin, Guard, Refusal};
use config::Config;
use joined::Joined;
use layout::Layout;
use listen::{Bound, Listeners};
use operate::Operate;
use readiness::{Latch, Readiness};

/// A running process: its roles, its ports, its log.
///
/// Dropping it ends everything at once, as a crash does, which loses and repeats nothing that
/// [`Process::drain`] would not; it only takes others longer to take over.
#[derive(Debug)]
pub struct Process {
    running: Running,
    admin: Admin,
    readiness: Readiness,
    data_address: Option<SocketAddr>,
    tcp_addresses: Vec<SocketAddr>,
    engine: Engine,
    topics: Arc<Topics>,
    drain: Duration,
    /// What belongs to no role: retention, and watching over the topics.
    chores: AbortOnDropHandle<()>,
}

impl Process {
    /// Starts these roles with the worker that the configuration names. Returns once the ports are
    /// bound, the log is open and its topics are there; brokers that do not answer are waited for, 45 s and one
    /// more question at most. Meanwhile the admin port tells so and the others refuse connections. The roles join
    /// their groups after that, and [`Process::is_ready`] tells when they have.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is in the way, and what to do. Nothing is left running.
    pub async fn start(config: &Config, roles: &Roles) -> Result<Self, Error> {
        Self::start_with(config, roles, wiring::processor(config, roles)?).await
    }

    /// As [`Process::start`], with a worker of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Process::start`].
    pub async fn start_with(config: &Config, roles: &Roles, processor: Arc<dyn Processor>) -> Result<Self, Error> {
        // What can fail for a reason of the user's comes first, and the ports before the log, which
        // may take its time.
        let token = config.admin.token_file.as_deref().map(secret::read).transpose();
        let token = token.map_err(|reason| Error::File { key: "admin.token_file", reason })?;
        let ingress_options = wiring::ingress_options(config)?;
        let (tls, tcp_ports) = (wiring::http_tls(config)?, wiring::tcp_ports(config)?);
        let pushed = wiring::pushed(config)?;
        let listeners = Listeners::bind(config, roles).await.map_err(|error| first_cause(config, error))?;
        let (readiness, latch) = Readiness::new();
        let admin = Admin::start(listeners.admin.into_std()?, readiness.clone(), Guard::new(token))?;
        let topics = Arc::new(config.topics());
        let engine = patience::ask(config, async || ready(config, &topics).await).await?;

        let mut starting = Starting { config, topics: &topics, engine: &engine, latch, running: Running::default() };
        let tcp: Vec<_> = listeners.tcp.into_iter().map(Bound::listen).collect::<Result<_, _>>()?;
        let tcp: Vec<_> = tcp.into_iter().zip(tcp_ports).collect();
        let tcp_addresses = tcp.iter().map(|(listener, _)| listener.local_addr()).collect::<Result<_, _>>()?;
        let data_address = match listeners.ingress {
            Some(bound) => Some(starting.ingress(bound.listen()?, tls, tcp, ingress_options)?),
            None => None,
        };
        for role in roles {
            match role {
                // Has its listener to see to first, above.
                Role::Ingress => {}
                Role::Work => starting.work(processor.clone()),
                Role::Resequence => starting.resequence(),
                Role::Deliver => starting.deliver(pushed.clone()),
            }
        }
        let layout = Layout::default();
        let operate = operate::router(Operate {
            log: engine.log(),
            topics: Topics::clone(&topics),
            options: wiring::resequence_options(config),
            layout: layout.clone(),
        });
        let running = starting.running;
        let more = operate.merge(admin::verify::router(engine.log(), topics.clone()));
        admin.open(refusal(engine.clone(), roles), more);
        // Told last: whoever has read it finds all ports served.
        info!(address = %admin.address, "the admin port listens");
        let outputs = pushed.keys().filter_map(|name| topics.destinations.get(name).cloned());
        let keep = retention::Keep { topics: topics.clone(), pushed: outputs.collect(), config: config.log.clone() };
        let (retention, watch) =
            (retention::run(engine.clone(), keep), layout::watch(engine.clone(), topics.clone(), layout));
        let chores = AbortOnDropHandle::new(tokio::spawn(async {
            tokio::join!(retention, watch);
        }));
        let drain = config.process.drain.get();
        Ok(Self { running, admin, readiness, data_address, tcp_addresses, engine, topics, drain, chores })
    }

    /// Whether every role has joined its group since the start. Once true, it stays so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where the data port listens, where the process takes messages in.
    #[must_use]
    pub fn data_address(&self) -> Option<SocketAddr> {
        self.data_address
    }

    /// Where the ports for framed messages listen, in the order of the configuration.
    #[must_use]
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp_addresses
    }

    /// The log that it stands on.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        self.engine.log()
    }

    /// The pipeline's topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Waits until a role has failed; for ever while all goes well. Cancel-safe. The others go on
    /// until [`Process::drain`].
    pub async fn failed(&mut self) -> Error {
        self.running.failed().await
    }

    /// Ends the roles in the order of the flow within `process.drain`, then the admin port, then
    /// the log. Work in flight finishes if it can; what does not is done again at the next start.
    ///
    /// # Errors
    ///
    /// The first role's that failed on the way, else [`Error::DrainTimedOut`].
    pub async fn drain(self) -> Result<(), Error> {
        let drained = self.running.drain(self.drain).await;
        self.chores.abort();
        // They end with their abortion; until then they hold the log.
        let _ = self.chores.await;
        drained
    }
}

/// An open log with its topics. Clients of Kafka that were told to ask a broker which does not answer may go on asking
/// that one, so whoever tries again has new ones.
async fn ready(config: &Config, topics: &Topics) -> Result<Engine, Error> {
    let engine = Engine::open(config).await?;
    engine.ensure(topics).await?;
    Ok(engine)
}

/// Who finds the ports taken by the process that has the folder, too, is told of the folder: another port would
/// not help.
fn first_cause(config: &Config, error: Error) -> Error {
    let taken = matches!(&error, Error::Listen { error, .. } if error.kind() == std::io::ErrorKind::AddrInUse);
    let holder = || Embedded::holder(&config.log.folder()?);
    if taken { holder().map_or(error, Error::Open) } else { error }
}

/// Why messages are refused, where this process takes them in.
fn refusal(engine: Engine, roles: &Roles) -> Refusal {
    let takes_in = roles.contains(&Role::Ingress);
    Arc::new(move || engine.refuses_intake().filter(|_| takes_in))
}

/// What roles are started with.
struct Starting<'a> {
    config: &'a Config,
    topics: &'a Arc<Topics>,
    engine: &'a Engine,
    latch: Latch,
    running: Running,
}

impl Starting<'_> {
    /// Serves the data port and those for framed messages; where the former listens.
    fn ingress(
        &mut self,
        http: TcpListener,
        tls: Option<ingress::Tls>,
        tcp: Vec<(TcpListener, ingress::tcp::Options)>,
        options: ingress::Options,
    ) -> Result<SocketAddr, Error> {
        let address = http.local_addr()?;
        for (listener, options) in &tcp {
            info!(address = %listener.local_addr()?, framing = ?options.framing, "a port for frames listens");
        }
        let ports = ingress::Ports { http, tls, tcp };
        let (log, topics) = (self.engine.log(), self.topics.clone());
        self.running.spawn(Role::Ingress, |drain| async move {
            let (service, driver) = ingress::Service::new(log, topics, options, drain);
            ingress::run(ports, service, driver).await;
            Ok(())
        });
        info!(%address, "the data port listens");
        Ok(address)
    }

    /// The log for one role; readiness waits for it to join its group.
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(Joined::new(self.engine.log(), self.latch.clone()))
    }

    fn work(&mut self, processor: Arc<dyn Processor>) {
        let (log, topics, options) = (self.log(), Topics::clone(self.topics), wiring::work_options(self.config));
        let (member, seed) = (wiring::member(), fastrand::u64(..));
        self.running.spawn(Role::Work, |drain| async move {
            Ok(work::run(log, topics, options, processor, member, seed, drain).await?)
        });
    }

    fn resequence(&mut self) {
        let (log, topics) = (self.log(), Topics::clone(self.topics));
        let options = wiring::resequence_options(self.config);
        let group = format!("{}.resequence", self.config.name);
        let (member, seed) = (wiring::member(), fastrand::u64(..));
        self.running.spawn(Role::Resequence, |drain| async move {
            Ok(resequence::run(log, topics, options, &group, &member, seed, drain).await?)
        });
    }

    fn deliver(&mut self, to: BTreeMap<String, deliver::Destination>) {
        let (log, topics) = (self.log(), Topics::clone(self.topics));
        let group = format!("{}.deliver", self.config.name);
        let (member, seed) = (wiring::member(), fastrand::u64(..));
        self.running.spawn(Role::Deliver, |drain| async move {
            Ok(deliver::run_with(log, topics, to, &group, &member, seed, drain).await?)
        });
    }
}

/// Why destinations cannot be pushed to as the configuration has it; reads the files that it names.
#[must_use]
pub fn unusable_destinations(config: &config::Config) -> Vec<Error> {
    wiring::receivers(config).filter_map(Result::err).collect()
}
