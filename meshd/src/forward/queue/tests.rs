use proptest::prelude::*;

use super::*;
use crate::packet::UDP;

const MS: Duration = Duration::from_millis(1);
/// A super-packet, in bytes.
const LARGE: usize = 60_000;

/// A queue with a clock beside it, and frames that say which flow they are of and which of its frames they are.
struct Bench {
    queue: Queue,
    now: Instant,
    pushed: [u32; 256],
}

/// What was read off a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    node: u8,
    port: u8,
    number: u32,
    length: usize,
    is_chosen: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            queue: Queue::new(7),
            now: Instant::now(),
            pushed: [0; 256],
        }
    }

    /// A UDP packet to this node and port, numbered within the port. Returns how many frames were lost.
    fn push(&mut self, node: u8, port: u8, length: usize) -> usize {
        let mut buffer = self.queue.buffer();
        buffer[..length].fill(0);
        let packet = &mut buffer[HEADER..length];
        packet[0] = 0x60;
        packet[6] = UDP;
        packet[31] = node;
        packet[IPV6 + 3] = port;
        packet[IPV6 + 8..IPV6 + 12].copy_from_slice(&self.pushed[usize::from(port)].to_be_bytes());
        self.pushed[usize::from(port)] += 1;
        self.queue.push(buffer, length, self.now)
    }

    fn pop(&mut self) -> Option<Seen> {
        let mut next = self.queue.pop(self.now)?;
        let is_chosen = next.is_chosen;
        let frame = next.frame();
        let packet = &frame[HEADER..];
        let seen = Seen {
            node: packet[31],
            port: packet[IPV6 + 3],
            number: u32::from_be_bytes(packet[IPV6 + 8..].first_chunk().copied().unwrap()),
            length: frame.len(),
            is_chosen,
        };
        self.queue.recycle(next);
        Some(seen)
    }

    /// Bytes that left for each node while `count` frames did and as many came for the same.
    fn shares(&mut self, count: usize) -> [usize; 256] {
        let mut shares = [0; 256];
        for _ in 0..count {
            let seen = self.pop().unwrap();
            shares[usize::from(seen.node)] += seen.length;
            assert_eq!(self.push(seen.node, seen.port, seen.length), 0);
        }
        shares
    }
}

#[test]
fn a_lone_packet_goes_before_what_a_flow_has_waiting() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.push(1, 1, LARGE);
    }
    assert_eq!(bench.pop().map(|seen| seen.port), Some(1));
    for round in 0..10 {
        bench.push(1, 2, 100);
        assert_eq!(bench.pop().map(|seen| seen.port), Some(2), "{round}");
        assert_eq!(bench.pop().map(|seen| seen.port), Some(1), "{round}");
    }
}

#[test]
fn a_flow_of_small_packets_gets_as_much_as_one_of_large_ones() {
    let mut bench = Bench::new();
    for _ in 0..8 {
        bench.push(1, 1, LARGE);
    }
    for _ in 0..1000 {
        bench.push(2, 2, 1000);
    }
    let mut bytes = [0; 3];
    for _ in 0..300 {
        let seen = bench.pop().unwrap();
        bytes[usize::from(seen.port)] += seen.length;
    }
    assert!(bytes[1].abs_diff(bytes[2]) <= 3 * LARGE, "{bytes:?}");
}

#[test]
fn a_node_with_many_flows_gets_as_much_as_one_with_a_single_flow() {
    let mut bench = Bench::new();
    for port in 1..=8 {
        for _ in 0..2 {
            bench.push(1, port, LARGE);
        }
    }
    for _ in 0..4 {
        bench.push(2, 100, LARGE);
    }
    let shares = bench.shares(2000);
    let ratio = shares[1] as f64 / shares[2] as f64;
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
}

#[test]
fn when_all_is_full_the_flow_with_most_in_it_loses() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        assert_eq!(bench.push(2, 2, 1000), 0);
    }
    let mut lost = 0;
    for _ in 0..1000 {
        lost += bench.push(1, 1, LARGE);
        assert!(bench.queue.room <= LIMIT);
    }
    let left: Vec<_> = std::iter::from_fn(|| bench.pop()).collect();
    let of_small = left.iter().filter(|seen| seen.port == 2).count();
    assert_eq!((of_small, left.len() + lost), (20, 1020));
    // The oldest were lost: what is left is the end of what came.
    assert_eq!(left.iter().map(|seen| seen.number).max(), Some(999));
    let buffers = bench.queue.small.len() * SMALL + bench.queue.large.len() * FRAME;
    assert!(buffers <= LIMIT + 4 * FRAME, "{buffers}");
}

#[test]
fn a_flow_whose_packets_wait_too_long_is_told_and_others_are_not() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.push(1, 1, LARGE);
    }
    let mut chosen = [0; 3];
    for _ in 0..100 {
        bench.push(1, 1, LARGE);
        bench.push(1, 2, 100);
        bench.now += 3 * MS;
        for _ in 0..2 {
            let seen = bench.pop().unwrap();
            chosen[usize::from(seen.port)] += usize::from(seen.is_chosen);
        }
    }
    assert!(chosen[1] > 0 && chosen[2] == 0, "{chosen:?}");
}

#[test]
fn a_flow_that_fills_what_is_there_is_told_at_once_but_not_of_every_packet() {
    let mut bench = Bench::new();
    for _ in 0..STANDING / LARGE + 8 {
        bench.push(1, 1, LARGE);
    }
    let first: Vec<_> = (0..4).map(|_| bench.pop().unwrap().is_chosen).collect();
    assert_eq!(first, [true, false, false, false]);
    bench.now += PATIENCE;
    assert!(bench.pop().unwrap().is_chosen);
    let rest: Vec<_> = std::iter::from_fn(|| bench.pop()).collect();
    assert!(rest.iter().all(|seen| !seen.is_chosen));
}

#[test]
fn flows_share_what_may_stand() {
    let mut bench = Bench::new();
    for port in 0..8 {
        for _ in 0..4 {
            bench.push(1, port, LARGE);
        }
    }
    let mut chosen = [0; 8];
    while let Some(seen) = bench.pop() {
        chosen[usize::from(seen.port)] += usize::from(seen.is_chosen);
    }
    assert_eq!(chosen, [1; 8]);
}

#[test]
fn frames_that_are_no_packets_pass_too() {
    let mut bench = Bench::new();
    for length in 0..HEADER + IPV6 + 4 {
        let buffer = bench.queue.buffer();
        assert_eq!(bench.queue.push(buffer, length, bench.now), 0);
    }
    let mut count = 0;
    while let Some(mut next) = bench.queue.pop(bench.now) {
        assert!(next.frame().len() < HEADER + IPV6 + 4);
        bench.queue.recycle(next);
        count += 1;
    }
    assert_eq!(count, HEADER + IPV6 + 4);
    assert!(bench.queue.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Push { port: u8, length: usize },
    Pop,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![100..SMALL, SMALL - 1..SMALL + 2, 40_000..FRAME];
    let step = prop_oneof![
        4 => (0..6_u8, length).prop_map(|(port, length)| Step::Push { port, length }),
        3 => Just(Step::Pop),
        1 => (0..20_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_uncounted_and_no_flow_is_reordered(steps in steps()) {
        let mut bench = Bench::new();
        let (mut pushed, mut lost, mut popped) = (0, 0, 0);
        let mut last: [Option<u32>; 6] = [None; 6];
        let mut see = |seen: Seen| {
            let last = &mut last[usize::from(seen.port)];
            let in_order = last.is_none_or(|last| seen.number > last);
            *last = Some(seen.number);
            in_order
        };
        for step in steps {
            match step {
                Step::Push { port, length } => {
                    // One node a port: a flow is one of both.
                    lost += bench.push(port % 3, port, length);
                    pushed += 1;
                }
                Step::Pop => if let Some(seen) = bench.pop() {
                    popped += 1;
                    prop_assert!(see(seen));
                },
                Step::Wait(millis) => bench.now += Duration::from_millis(millis),
            }
            prop_assert!(bench.queue.room <= LIMIT);
            prop_assert_eq!(bench.queue.is_empty(), pushed == popped + lost);
        }
        while let Some(seen) = bench.pop() {
            popped += 1;
            prop_assert!(see(seen));
        }
        prop_assert_eq!(pushed, popped + lost);
        prop_assert!(bench.queue.flows.iter().all(|flow| flow.room == 0 && flow.bytes == 0 && flow.turn == Turn::Idle));
        prop_assert!(bench.queue.nodes.iter().all(|&count| count == 0));
    }
}
