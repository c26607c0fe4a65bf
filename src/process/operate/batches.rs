//! How batches are, as JSON: those of all lanes, the latest first.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Operate, Refusal};
use crate::observe::batches::Board;
use crate::record::Partition;
use crate::record::batches::{BatchRecord, time};

/// Batches that are listed, and items of one that are named as blocking it: what fits a page.
const LISTED: usize = 50;
/// See [`LISTED`].
const NAMED_BLOCKERS: usize = 20;

/// How long the first call waits until the states there are have been read.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the handler looks at.
#[derive(Clone)]
struct Batches {
    operate: Operate,
    /// One a lane, followed from the first call on: a process whom nobody asks reads nothing.
    boards: Arc<OnceLock<Vec<Board>>>,
}

/// The route, for the admin port. Its runtime ends what follows the states.
pub(super) fn router(operate: Operate) -> Router {
    Router::new().route("/v1/batches", get(all)).with_state(Batches { operate, boards: Arc::default() })
}

async fn all(State(batches): State<Batches>) -> Result<Json<Value>, Refusal> {
    let Operate { log, topics, .. } = &batches.operate;
    let boards = batches.boards.get_or_init(|| (0..topics.lanes).map(|lane| batches.follow(Partition(lane))).collect());
    let mut all = Vec::new();
    for (lane, board) in (0u32..).zip(boards) {
        if !board.ready(PATIENCE).await {
            let detail = "the states of the batches are still being read; ask again".to_owned();
            return Err(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, detail });
        }
        all.extend(board.all().into_iter().map(|(id, record)| (lane, id, record)));
    }
    all.sort_by(|(_, id, a), (_, other, b)| b.state.started_at.cmp(&a.state.started_at).then_with(|| id.cmp(other)));
    let now = log.now().0;
    let shown = all.iter().take(LISTED).map(|(lane, id, record)| describe(*lane, id, record, now));
    Ok(Json(json!({ "batches": shown.collect::<Vec<_>>() })))
}

impl Batches {
    /// A board of a lane that is kept up for as long as the runtime runs.
    fn follow(&self, lane: Partition) -> Board {
        let Operate { log, topics, .. } = &self.operate;
        let board = Board::new();
        tokio::spawn(board.clone().follow(Arc::clone(log), topics.batch_state.partition(lane)));
        board
    }
}

fn describe(lane: u32, id: &str, record: &BatchRecord, now: i64) -> Value {
    let state = &record.state;
    json!({
        "id": id,
        "lane": lane,
        "status": state.status(),
        "stalled": state.stalled,
        "counts": state.counts(),
        "startedAt": time(state.started_at),
        "lastProgressAt": time(state.progress_at),
        "endedAt": state.ended_at.map(time),
        "eta": state.eta(now).map(time),
        "blockedBy": state.held().take(NAMED_BLOCKERS).collect::<Vec<_>>(),
    })
}
