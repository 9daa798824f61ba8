//! Watches the network from the control thread: tells the node when the underlay changes, and puts back what somebody takes away from
//! the overlay.

use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::{
    admin::WarningCode,
    control::{Control, chain},
    daemon::RunError,
    io::netlink::{Changes, Interface, LinkState},
};

/// The overlay is mended at most this often: somebody may insist, most likely a program.
const MEND: Duration = Duration::from_secs(1);
/// What could not be mended is tried again.
const MEND_AGAIN: Duration = Duration::from_secs(10);

/// Runs until the kernel tells no more.
pub(crate) async fn watch(control: &Control, overlay: &Interface) -> RunError {
    let mut changes = match Changes::watch(overlay.index).await {
        Ok(changes) => changes,
        Err(error) => return RunError::Netlink(error),
    };
    let touched = Notify::new();
    let tell = async {
        tell_hosts(control).await;
        while let Some(change) = changes.next().await {
            debug!(?change, "Network changed");
            if change.overlay {
                touched.notify_one();
            }
            if !change.underlay() {
                continue;
            }
            control.network_changed.send_replace(());
            tell_hosts(control).await;
            control.plane.touch();
            let told = control
                .node
                .call(|node_loop, now| node_loop.handle_network_change(now))
                .await;
            if told.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = tell => {}
        () = mend(control, overlay, &touched) => {}
    }
    RunError::Ended("netlink has closed".to_owned())
}

/// Tells the node which addresses others may reach it by, for its path agent to offer.
async fn tell_hosts(control: &Control) {
    let hosts = match control.netlink.local_addresses().await {
        Ok(hosts) => hosts,
        Err(error) => {
            warn!(error = chain(&error), "Own addresses are not known");
            return;
        }
    };
    let told = control
        .node
        .call(move |node_loop, now| node_loop.handle_hosts(&hosts, now))
        .await;
    if told.is_err() {
        debug!("Node loop is too busy to hear of addresses");
    }
}

async fn mend(control: &Control, overlay: &Interface, touched: &Notify) {
    loop {
        touched.notified().await;
        loop {
            match control.netlink.mend(overlay).await {
                Ok(LinkState::Up) => {
                    info!("The interface has its address, routes and rules again");
                    control.alerts.clear(WarningCode::InterfaceDown);
                    break;
                }
                Ok(LinkState::Down) => {
                    let text = "the overlay's interface has been set down, not by the daemon";
                    warn!("{text}");
                    control.alerts.raise(WarningCode::InterfaceDown, text);
                    break;
                }
                Err(error) => {
                    warn!(error = chain(&error), "The overlay is not mended");
                    tokio::time::sleep(MEND_AGAIN).await;
                }
            }
        }
        tokio::time::sleep(MEND).await;
    }
}
