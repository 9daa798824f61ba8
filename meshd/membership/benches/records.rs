//! What the records of a network of 1,000 members cost: to read from a file (each is verified), to take one more, to judge, to compare
//! with a peer, and to fetch all of them.
//!
//! `cargo bench -p membership`, with criterion's arguments after `--`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench may fail by panic"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use membership::{
    Records, Signer,
    sync::{self, Progress, Pull},
};

#[path = "../tests/common/mod.rs"]
mod common;
use common::*;

const MEMBERS: u32 = 1_000;

/// Everybody came with a ticket of one use.
fn full() -> Records {
    let mut records = founded();
    crowd(&mut records, 0, MEMBERS - 1);
    records
}

fn fetch(from: &Records, to: &mut Records) {
    let now = start();
    let mut pull = Pull::new(1);
    while pull.progress() == Progress::Going {
        let question = pull.poll_transmit(to, now).unwrap();
        let answer = sync::answer(from, &question).unwrap();
        pull.handle_message(to, &answer).unwrap();
    }
}

fn records(criterion: &mut Criterion) {
    let full = full();
    let file = full.to_bytes();
    let title = |what| format!("{what} ({} records, {} bytes)", full.len(), file.len());
    criterion.bench_function(&title("read a file"), |bench| {
        bench.iter(|| Records::from_bytes(id(), black_box(&file)).unwrap());
    });
    criterion.bench_function(&title("write a file"), |bench| {
        bench.iter(|| black_box(&full).to_bytes());
    });
    let mut more = full.clone();
    let revoked = more
        .revoke(Signer::Node(&ANNA), node(&seed(5)), NOW)
        .unwrap();
    criterion.bench_function(&title("take a record and judge all"), |bench| {
        bench.iter_batched_ref(
            || full.clone(),
            |records| {
                records.insert(&revoked.0[0]).unwrap();
                records.roll()
            },
            BatchSize::LargeInput,
        );
    });
    criterion.bench_function(&title("compare equal sets"), |bench| {
        bench.iter_batched_ref(
            || full.clone(),
            |records| fetch(&full, records),
            BatchSize::LargeInput,
        );
    });
    criterion.bench_function(&title("fetch all records"), |bench| {
        bench.iter_batched_ref(
            || Records::new(id()),
            |records| fetch(&full, records),
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, records);
criterion_main!(benches);
