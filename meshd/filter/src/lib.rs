//! Who may reach what on this node: a stateful filter, without I/O and without a clock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod ports;

pub use self::ports::{Port, PortRange, Ports, PortsError};
