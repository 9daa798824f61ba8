//! `meshd metrics`

use std::io::Write;

use super::Failure;
use crate::cli::Global;
use crate::metrics::Metrics;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let client = super::client(global)?;
    let metrics = Metrics::of(
        &client.status()?,
        &client.links()?.links,
        &client.routes()?.routes,
    );
    if global.json {
        return super::print_json(metrics, out);
    }
    Ok(write!(out, "{}", metrics.text())?)
}
