//! Roles as tasks: started, watched, and ended in order.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::Error;
use super::role::Role;

/// What a role fails with.
pub type RoleError = Box<dyn std::error::Error + Send + Sync>;

/// By when each role has to have ended, in hundredths of the whole drain, in the order of the
/// flow. The last ones need little but their commit; without a share of their own they would get
/// nothing after a worker that does not answer.
const DRAIN_SHARES: [(Role, u32); 4] =
    [(Role::Ingress, 40), (Role::Work, 80), (Role::Resequence, 90), (Role::Deliver, 100)];

/// The roles that are running. Dropping it ends them at once, which is safe: a crash is.
#[derive(Debug, Default)]
pub struct Running {
    tasks: JoinSet<Result<(), RoleError>>,
    left: BTreeMap<Role, Part>,
}

#[derive(Debug)]
struct Part {
    drain: CancellationToken,
    task: AbortHandle,
}

impl Running {
    /// Starts a role. `run` is given the token that asks it to end in order.
    pub fn spawn<F>(&mut self, role: Role, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), RoleError>> + Send + 'static,
    {
        let drain = CancellationToken::new();
        let task = self.tasks.spawn(run(drain.clone()).instrument(info_span!("role", role = role.as_str())));
        self.left.insert(role, Part { drain, task });
    }

    /// Waits until a role ends without having been asked to, which it does only when it fails.
    /// Waits for ever where none is running. Cancel-safe.
    pub async fn failed(&mut self) -> Error {
        match self.next_end().await {
            Some((role, Ok(()))) => Error::Ended { role },
            Some((_, Err(error))) => error,
            None => std::future::pending().await,
        }
    }

    /// Asks the roles to end, one after the other in the order of the flow, so that each can still
    /// pass on what it has. Those that take longer than their share of `within` are ended as by a crash.
    ///
    /// # Errors
    ///
    /// The first role's that failed on the way, else [`Error::DrainTimedOut`] where one took too long.
    pub async fn drain(mut self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let (mut failure, mut abandoned) = (None, Vec::new());
        for (role, share) in DRAIN_SHARES {
            if let Some(part) = self.left.get(&role) {
                info!(%role, "ending");
                part.drain.cancel();
            }
            let until = start + within * share / 100;
            while self.left.contains_key(&role) {
                match timeout_at(until, self.next_end()).await {
                    Ok(Some((_, Err(error)))) => failure = failure.or(Some(error)),
                    Ok(_) => {}
                    Err(_) => {
                        warn!(%role, "has not ended in its share of process.drain and is abandoned");
                        abandoned.push(role);
                        self.abandon(role);
                    }
                }
            }
        }
        // Those that were abandoned hold the log until they are really gone.
        self.tasks.shutdown().await;
        match failure {
            Some(error) => Err(error),
            None if abandoned.is_empty() => Ok(()),
            None => Err(Error::DrainTimedOut { within, roles: abandoned }),
        }
    }

    fn abandon(&mut self, role: Role) {
        if let Some(part) = self.left.remove(&role) {
            part.task.abort();
        }
    }

    /// The next role that ends, `None` where none is left.
    async fn next_end(&mut self) -> Option<(Role, Result<(), Error>)> {
        loop {
            let (id, ended) = match self.tasks.join_next_with_id().await? {
                Ok((id, ended)) => (id, Ok(ended)),
                Err(error) => (error.id(), Err(error)),
            };
            let found = self.left.iter().find(|(_, part)| part.task.id() == id).map(|(role, _)| *role);
            // Those that were abandoned are no longer waited for.
            let Some(role) = found else { continue };
            self.left.remove(&role);
            return Some((role, outcome(role, ended)));
        }
    }
}

fn outcome(role: Role, ended: Result<Result<(), RoleError>, JoinError>) -> Result<(), Error> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Role { role, error }),
        Err(_) => Err(Error::Panicked { role }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(100);

    type Log = Arc<Mutex<Vec<(Role, u64)>>>;

    /// Roles that take so long to end once asked, and note when they have.
    fn running(ends: &[(Role, u64)]) -> (Running, Log) {
        let (mut running, log, start) = (Running::default(), Log::default(), Instant::now());
        for (role, seconds) in ends.iter().copied() {
            let log = log.clone();
            running.spawn(role, |drain| async move {
                drain.cancelled().await;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                log.lock().expect("no test panics with it").push((role, start.elapsed().as_secs()));
                Ok(())
            });
        }
        (running, log)
    }

    #[tokio::test(start_paused = true)]
    async fn roles_end_one_after_the_other_in_the_order_of_the_flow() {
        let (running, log) = running(&[(Role::Deliver, 1), (Role::Work, 3), (Role::Ingress, 2), (Role::Resequence, 1)]);
        running.drain(DRAIN).await.expect("all end in time");
        let ended = log.lock().expect("all tasks have ended").clone();
        assert_eq!(ended, [(Role::Ingress, 2), (Role::Work, 5), (Role::Resequence, 6), (Role::Deliver, 7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_takes_too_long_leaves_the_others_their_time() {
        let (running, log) = running(&[(Role::Work, 1_000), (Role::Resequence, 5), (Role::Deliver, 1)]);
        let error = running.drain(DRAIN).await.expect_err("work does not end in time");
        assert!(matches!(&error, Error::DrainTimedOut { roles, .. } if *roles == [Role::Work]), "{error}");
        assert_eq!(*log.lock().expect("all tasks have ended"), [(Role::Resequence, 85), (Role::Deliver, 86)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_and_the_rest_still_ends_in_order() {
        let (mut running, log) = running(&[(Role::Ingress, 1), (Role::Deliver, 1)]);
        running.spawn(Role::Work, |_| async { Err("worker on fire".into()) });
        assert_eq!(running.failed().await.to_string(), "the role work has failed: worker on fire");
        running.drain(DRAIN).await.expect("the others end in time");
        assert_eq!(*log.lock().expect("all tasks have ended"), [(Role::Ingress, 1), (Role::Deliver, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_end_unasked_are_failures() {
        let mut running = Running::default();
        running.spawn(Role::Work, |_| async { panic!("a defect") });
        assert!(matches!(running.failed().await, Error::Panicked { role: Role::Work }));
        running.spawn(Role::Ingress, |_| async { Ok(()) });
        assert!(matches!(running.failed().await, Error::Ended { role: Role::Ingress }));
    }
}
