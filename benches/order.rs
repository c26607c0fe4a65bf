//! What a record costs in the lane: admitted, resolved, released.
//!
//! Results come in order, reversed within the window, at random within the window, or all but one,
//! which is stuck at the head until the window is full.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seriatim::order::{Group, Lane, Resume, Window};
use seriatim::record::Offset;

/// Records a measured run; several windows of the largest size.
const RECORDS: u64 = 400_000;

#[derive(Clone, Copy, Debug)]
enum Completion {
    InOrder,
    Reversed,
    Random,
    StuckHead,
}

/// The order in which a window's records get their results.
fn completion(kind: Completion, window: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..window).collect();
    match kind {
        Completion::InOrder => {}
        Completion::Reversed => order.reverse(),
        Completion::Random => fastrand::Rng::with_seed(1).shuffle(&mut order),
        Completion::StuckHead => order.rotate_left(1),
    }
    order
}

/// Fills the window, resolves it in the given order, lets everything leave, and again.
fn run(order: &[u64], group: impl Fn(u64) -> Option<Group>) -> u64 {
    let window = order.len() as u64;
    let mut lane = Lane::new(Window { records: window }, Resume::default());
    let mut released = 0;
    let mut base = 0;
    while base < RECORDS {
        for offset in base..base + window {
            match group(offset) {
                Some(group) => lane.admit(Offset(offset), &[group], offset),
                None => lane.admit_alone(Offset(offset), offset),
            }
            .expect("in order");
        }
        for at in order {
            lane.resolve(Offset(base + at)).expect("open");
            while let Some(part) = lane.next_ready() {
                released += lane.release(part).expect("taken").unwrap_or(0) & 1;
            }
        }
        base += window;
    }
    assert_eq!(lane.unreleased(), 0);
    released
}

/// The flow of a pipeline: each record is admitted as another leaves, results a fixed distance behind.
fn flow(distance: u64) -> u64 {
    let mut lane = Lane::new(Window { records: distance + 1 }, Resume::default());
    let mut released = 0;
    for offset in 0..RECORDS {
        lane.admit(Offset(offset), &[Group(0)], offset).expect("in order");
        let Some(finished) = offset.checked_sub(distance) else { continue };
        lane.resolve(Offset(finished)).expect("open");
        while let Some(part) = lane.next_ready() {
            released += lane.release(part).expect("taken").unwrap_or(0) & 1;
        }
    }
    released
}

fn lanes(criterion: &mut Criterion) {
    for kind in [Completion::InOrder, Completion::Reversed, Completion::Random, Completion::StuckHead] {
        let mut group = criterion.benchmark_group(format!("lane/{kind:?}"));
        group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
        for window in [1, 1_000, 100_000] {
            let order = completion(kind, window);
            group.bench_with_input(BenchmarkId::from_parameter(window), &order, |bencher, order| {
                bencher.iter(|| run(black_box(order), |_| Some(Group(0))));
            });
        }
        group.finish();
    }
}

/// Finer scopes: a thousand keys, and each record alone.
fn scopes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scope/Random");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    for window in [1_000, 100_000] {
        let order = completion(Completion::Random, window);
        let key = |offset: u64| Some(Group((offset % 1_000).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        group.bench_with_input(BenchmarkId::new("key", window), &order, |bencher, order| {
            bencher.iter(|| run(black_box(order), key));
        });
        group.bench_with_input(BenchmarkId::new("none", window), &order, |bencher, order| {
            bencher.iter(|| run(black_box(order), |_| None));
        });
    }
    group.finish();
}

fn flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    for distance in [0, 1_000, 100_000] {
        group.bench_function(BenchmarkId::from_parameter(distance), |bencher| {
            bencher.iter(|| flow(black_box(distance)));
        });
    }
    group.finish();
}

criterion_group!(benches, lanes, scopes, flows);
criterion_main!(benches);
