//! What sealing and opening cost: one packet under one lock, a batch of packets under one lock, and beside them the AEAD alone, which
//! is the limit (`chapoly` has benches of its own). What is above it: lock, keypairs, counters, padding, the replay window.
//!
//! `cargo bench -p wireguard`, with criterion's arguments after `--`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench may fail by panic"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use chapoly::{Key, TAG};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wireguard::{Endpoint, Opened, Session, Signals};

#[path = "../tests/common/mod.rs"]
mod common;
use common::{Engine, Lab, MTU, at, overlay, packet, underlay};

/// The shortest packet worth sending, and the longest over an underlay of 1500 bytes.
const LENGTHS: [usize; 2] = [64, 1_420];
/// Packets of a batch: about what a super-packet of 64 KB holds.
const BATCH: usize = 45;
/// What a data message adds: a header of 16 bytes and a tag of 16.
const OVERHEAD: usize = 32;
/// Datagrams that are sealed before they are opened one by one: few enough to stay in the cache, as a batch does in the daemon.
const AHEAD: BatchSize = BatchSize::NumIterations(64);

/// Two ends of a session, at the time of its handshake: a keypair never gets old here.
struct Ends {
    near: Arc<Session>,
    far: Arc<Session>,
    now: Instant,
}

impl Ends {
    fn new() -> Self {
        let lab = Lab::connected(Engine::Noise);
        Self {
            near: lab.session(0, 1),
            far: lab.session(1, 0),
            now: lab.now,
        }
    }

    /// Seals a packet so many times, one datagram after the other in `out`, under one lock.
    fn seal(&self, packet: &[u8], out: &mut [u8]) -> Signals {
        let mut batch = self.near.lock(self.now);
        for datagram in out.chunks_exact_mut(packet.len() + OVERHEAD) {
            let sealed = batch.seal(packet, MTU, datagram);
            assert_eq!(sealed, Ok(datagram.len()));
        }
        batch.finish()
    }

    /// Opens datagrams of this length that stand one after the other, under one lock.
    fn open(&self, from: Endpoint, length: usize, datagrams: &mut [u8], out: &mut [u8]) -> Signals {
        let mut batch = self.far.lock(self.now);
        for datagram in datagrams.chunks_exact_mut(length) {
            let opened = batch.open(from, datagram, out);
            let is_whole = matches!(&opened, Ok(Opened::Packet { packet, .. }) if packet.len() + OVERHEAD == length);
            assert!(is_whole, "{opened:?}");
        }
        batch.finish()
    }
}

/// The AEAD alone.
struct Bare {
    key: Key,
    counter: u64,
}

impl Bare {
    fn new() -> Self {
        Self {
            key: Key::new([7; 32].into()),
            counter: 0,
        }
    }

    fn seal(&mut self, text: &[u8], out: &mut [u8]) {
        self.counter += 1;
        self.key.seal(self.counter, text, out);
    }

    fn open(&self, counter: u64, message: &[u8], out: &mut [u8]) -> usize {
        self.key.open(counter, message, out).unwrap().len()
    }
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for length in LENGTHS {
        group.throughput(Throughput::Bytes(length as u64));
        let (ends, packet) = (Ends::new(), packet(overlay(0), length));
        let mut out = vec![0; length + OVERHEAD];
        group.bench_function(BenchmarkId::new("one", length), |bencher| {
            bencher.iter(|| ends.seal(black_box(&packet), &mut out));
        });
        let mut bare = Bare::new();
        group.bench_function(BenchmarkId::new("bare one", length), |bencher| {
            bencher.iter(|| bare.seal(black_box(&packet), &mut out[..length + TAG]));
        });
    }
    let length = LENGTHS[1];
    group.throughput(Throughput::Bytes((BATCH * length) as u64));
    let (ends, packet) = (Ends::new(), packet(overlay(0), length));
    let mut out = vec![0; BATCH * (length + OVERHEAD)];
    group.bench_function(BenchmarkId::new("batch", BATCH), |bencher| {
        bencher.iter(|| ends.seal(black_box(&packet), &mut out));
    });
    let mut bare = Bare::new();
    group.bench_function(BenchmarkId::new("bare batch", BATCH), |bencher| {
        bencher.iter(|| {
            for out in black_box(&mut out).chunks_exact_mut(length + OVERHEAD) {
                bare.seal(&packet, &mut out[OVERHEAD - TAG..]);
            }
        });
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    let runs = LENGTHS.map(|length| (length, 1));
    for (length, count) in runs.into_iter().chain([(LENGTHS[1], BATCH)]) {
        let (ours, bares, parameter, ahead) = if count == 1 {
            ("one", "bare one", length, AHEAD)
        } else {
            ("batch", "bare batch", count, BatchSize::PerIteration)
        };
        group.throughput(Throughput::Bytes((count * length) as u64));
        let (ends, packet) = (Ends::new(), packet(overlay(0), length));
        let (from, sealed_length) = (at(underlay(0)), length + OVERHEAD);
        let mut out = vec![0; sealed_length];
        group.bench_function(BenchmarkId::new(ours, parameter), |bencher| {
            // Each datagram opens once only.
            let sealed = || {
                let mut datagrams = vec![0; count * sealed_length];
                // Nobody waits for an answer here, so there is nothing to hear.
                let _signals = ends.seal(&packet, &mut datagrams);
                datagrams
            };
            let open =
                |datagrams: &mut Vec<u8>| ends.open(from, sealed_length, datagrams, &mut out);
            bencher.iter_batched_ref(sealed, open, ahead);
        });
        let mut bare = Bare::new();
        let mut message = vec![0; length + TAG];
        bare.seal(&packet, &mut message);
        let counter = bare.counter;
        group.bench_function(BenchmarkId::new(bares, parameter), |bencher| {
            let open = |messages: &mut Vec<u8>| {
                for message in messages.chunks_exact(message.len()) {
                    black_box(bare.open(counter, message, &mut out));
                }
            };
            bencher.iter_batched_ref(|| message.repeat(count), open, ahead);
        });
    }
    group.finish();
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
