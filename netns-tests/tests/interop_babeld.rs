//! babeld (Debian's, over wireguard-go) next to nodes of ours: as a stub behind one, and as a transit between two.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

mod scenes;

use netns_tests::Software;
use scenes::{StubScene, TransitScene};

const SOFTWARE: Software = Software::Babeld;

#[test]
fn babeld_is_a_stub_that_everybody_reaches() {
    StubScene::new("interop babeld stub", SOFTWARE).routes_both_ways();
}

#[test]
fn babeld_comes_back_after_an_outage_and_a_restart() {
    StubScene::new("interop babeld outage", SOFTWARE).heals();
}

#[test]
fn babeld_carries_the_session_of_two_nodes() {
    let scene = TransitScene::new("interop babeld transit", SOFTWARE);
    scene.carries_sessions();
    scene.stops_at_the_first_node();
    scene.gains_nothing_by_posting_from_elsewhere();
    scene.heals();
    scene.gives_way_to_proven_routes();
}
