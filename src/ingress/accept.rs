//! The data port's own accept loop: connections, their limits, and their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::gate::{Gate, Place};
use super::http::Connection;
use super::patient::Patient;
use super::tls::{self, Tls};
use super::{LARGEST_HEAD, Options, Service};
use crate::metrics::Port;
use crate::record::Partition;

/// Streams at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;

/// Serves connections until `drain`; then takes no more, lets requests in flight finish and
/// returns when the last connection has ended. Dropping it ends them at once.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    service: Service,
    router: Router,
    drain: CancellationToken,
) {
    let limits = service.options();
    let gate = Gate::new(Port::Http, limits.max_connections, limits.max_connections_per_peer);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = drain.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (stream, place) = gate.accept(&listener) => {
                let (lane, options) = (service.next_lane(), service.options().clone());
                let server = Server { tls: tls.clone(), router: router.clone(), options, drain: drain.clone() };
                connections.spawn(server.welcome(stream, place, lane));
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What one connection is served with.
struct Server {
    tls: Option<Arc<Tls>>,
    router: Router,
    options: Options,
    drain: CancellationToken,
}

impl Server {
    async fn welcome(self, stream: TcpStream, place: Place, lane: Partition) {
        // Small answers must not wait for an acknowledgement of the one before; where it cannot be
        // set they merely do.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.serve(stream, Connection { lane, certified: None }).await,
            Some(tls) => match tls.accept(stream, self.options.header_timeout).await {
                Ok((stream, certified)) => self.serve(stream, Connection { lane, certified }).await,
                Err(error) => tls::failed(&error),
            },
        }
        drop(place);
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: Connection) {
        let activity = Arc::new(Activity::new());
        let seen = Arc::clone(&activity);
        let handler = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            let (router, busy) = (self.router.clone(), Busy::new(&seen));
            async move {
                let response = router.oneshot(request.map(axum::body::Body::new) as Request).await?;
                // A streamed answer is in flight until its body has ended.
                Ok::<_, std::convert::Infallible>(response.map(|body| super::patient::holding(body, busy)))
            }
        });
        let builder = builder(&self.options);
        let io = TokioIo::new(Patient::new(stream, self.options.write_timeout));
        let mut serving = std::pin::pin!(builder.serve_connection(io, handler));
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                _ = serving.as_mut() => break,
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = idle(&activity, &self.options) => break,
            }
        }
    }
}

/// What a connection is doing, for its watch.
#[derive(Debug)]
struct Activity {
    origin: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds from the origin to the last end of a request.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { origin: Instant::now(), in_flight: AtomicUsize::new(0), last: AtomicU64::new(0) }
    }
}

/// A request in flight.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.0.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(elapsed, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the connection has had no request for too long: hyper's own time-out for headers
/// does not cover the first bytes of a connection, which tell the version.
async fn idle(activity: &Activity, options: &Options) {
    let mut deadline = activity.origin + options.header_timeout;
    loop {
        sleep_until(deadline).await;
        let last = activity.last.load(Ordering::Relaxed);
        let since = activity.origin + Duration::from_millis(last);
        if activity.in_flight.load(Ordering::Relaxed) > 0 {
            deadline = Instant::now() + options.idle_timeout;
        } else if last > 0 && since + options.idle_timeout > Instant::now() {
            deadline = since + options.idle_timeout;
        } else {
            return;
        }
    }
}

fn builder(options: &Options) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        // Bounds the head, to which hyper answers 431 beyond, and what is read of a body at once.
        .max_buf_size(LARGEST_HEAD)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.idle_timeout)
        .keep_alive_timeout(options.header_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(LARGEST_HEAD).expect("it is small"));
    builder
}
