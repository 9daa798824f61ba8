//! The AEAD by itself, as wide as this processor is, and beside it `ring`, which works everywhere.
//!
//! `cargo bench -p chapoly`, with criterion's arguments after `--`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench may fail by panic"
)]

use std::hint::black_box;

use chapoly::{Key, TAG};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const LENGTHS: [usize; 3] = [64, 1_420, 1_424];

fn aead(criterion: &mut Criterion) {
    let keys = [
        ("best", Key::new([7; 32].into())),
        ("ring", Key::by_ring([7; 32].into())),
    ];
    for length in LENGTHS {
        let mut group = criterion.benchmark_group(length.to_string());
        group.throughput(Throughput::Bytes(length as u64));
        let packet = vec![3; length];
        let (mut sealed, mut out) = (vec![0; length + TAG], vec![0; length]);
        for (name, key) in &keys {
            group.bench_function(BenchmarkId::new("seal", name), |bencher| {
                bencher.iter(|| key.seal(1, black_box(&packet), &mut sealed));
            });
            group.bench_function(BenchmarkId::new("open", name), |bencher| {
                bencher.iter(|| key.open(1, black_box(&sealed), &mut out).unwrap().len());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, aead);
criterion_main!(benches);
