//! Meshes of whole daemons in virtual time: what must hold whatever the underlay does.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod basics;
mod clocks;
mod healing;
mod histories;
mod hostile;
mod links;
mod paths;
mod relaying;
mod sizes;
