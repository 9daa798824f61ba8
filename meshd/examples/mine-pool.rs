//! Makes the pool of test identities: `cargo run -p meshd --example mine-pool [COUNT] > meshd/testdata/identities.txt`.
//!
//! Tests never mine, they take these. The keys are public: whoever uses one outside a test has no secret.
#![expect(clippy::print_stdout, reason = "its output is the file")]

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use meshd::identity::Identity;

const DEFAULT_COUNT: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(DEFAULT_COUNT), |count| count.parse())?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    println!(
        "# Public test keys, secret to nobody: seed, WireGuard public key, overlay address. Made by example mine-pool."
    );
    for _ in 0..count {
        let identity = Identity::mine(threads, |_| ControlFlow::Continue(()))?;
        let node = identity.node();
        println!(
            "{} {} {}",
            identity.to_hex().as_str(),
            node.public_key(),
            node.address()
        );
    }
    Ok(())
}
