use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use futures_util::stream::TryStreamExt;
use rtnetlink::IpVersion;

use super::*;
use crate::io::testing::in_namespace_async;
use crate::io::tun::Tun;
use crate::io::udp::UdpSocket;

fn interface(tun: &Tun) -> Interface {
    Interface {
        index: tun.index(),
        address: "600:1:2:3::1".parse().unwrap(),
        mtu: 1420,
        queue_length: 200,
    }
}

async fn link(netlink: &Netlink, index: u32) -> LinkMessage {
    netlink
        .handle
        .link()
        .get()
        .match_index(index)
        .execute()
        .try_next()
        .await
        .unwrap()
        .unwrap()
}

async fn addresses_of(netlink: &Netlink, index: u32) -> Vec<AddressMessage> {
    let addresses = netlink
        .handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    addresses.try_collect().await.unwrap()
}

/// Preferences of the IPv6 rules.
async fn preferences(netlink: &Netlink) -> Vec<u32> {
    let rules: Vec<_> = netlink
        .handle
        .rule()
        .get(IpVersion::V6)
        .execute()
        .try_collect()
        .await
        .unwrap();
    let preference = |rule: &RuleMessage| {
        rule.attributes.iter().find_map(|attribute| {
            if let RuleAttribute::Priority(preference) = attribute {
                Some(*preference)
            } else {
                None
            }
        })
    };
    rules
        .iter()
        .map(|rule| preference(rule).unwrap_or(0))
        .collect()
}

async fn routes(netlink: &Netlink) -> Vec<RouteMessage> {
    let all = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let routes: Vec<_> = netlink
        .handle
        .route()
        .get(all)
        .execute()
        .try_collect()
        .await
        .unwrap();
    routes
        .into_iter()
        .filter(|route| table_of(route) == TABLE)
        .collect()
}

/// An interface of the underlay, up. (Another TUN, since every kernel that runs these tests has that.)
async fn add_uplink(netlink: &Netlink) -> Tun {
    let uplink = Tun::open("up0").unwrap();
    let up = LinkUnspec::new_with_index(uplink.index()).up().build();
    netlink.handle.link().change(up).execute().await.unwrap();
    uplink
}

/// What the kernel says to a packet for `to` from a socket with this mark.
fn connect(to: &str, mark: u32) -> io::Result<()> {
    let socket = UdpSocket::bind("[::]:0".parse().unwrap(), mark).unwrap();
    let socket = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
    socket.connect(SocketAddr::new(to.parse().unwrap(), 9))
}

#[test]
fn configuring_twice_leaves_one_of_everything() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        let interface = interface(&tun);
        netlink.configure(&interface).await.unwrap();
        netlink.configure(&interface).await.unwrap();

        let link = link(&netlink, tun.index()).await;
        assert!(link.attributes.contains(&LinkAttribute::Mtu(1420)));
        assert!(link.attributes.contains(&LinkAttribute::TxQueueLen(200)));
        assert!(
            link.attributes
                .contains(&LinkAttribute::GsoMaxSize(GSO_MAX_SIZE))
        );
        assert!(is_running(&link));

        let addresses = addresses_of(&netlink, tun.index()).await;
        assert_eq!(addresses.len(), 1, "no link-local address: {addresses:?}");
        assert!(
            addresses[0]
                .attributes
                .contains(&AddressAttribute::Address(interface.address.into()))
        );
        assert_eq!(addresses[0].header.prefix_len, 128);
        assert!(
            !addresses[0]
                .header
                .flags
                .contains(AddressHeaderFlags::Tentative)
        );

        assert_eq!(
            preferences(&netlink).await,
            [0, RULE_MARKED, RULE_LOOKUP, 32766]
        );
        let kinds: Vec<_> = routes(&netlink)
            .await
            .iter()
            .map(|route| route.header.kind)
            .collect();
        assert_eq!(kinds, [RouteType::Unicast, RouteType::Unreachable]);
    });
}

#[test]
fn removing_leaves_nothing_and_may_be_repeated() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        netlink.remove().await.unwrap();
        netlink.configure(&interface(&tun)).await.unwrap();
        netlink.remove().await.unwrap();
        assert_eq!(preferences(&netlink).await, [0, 32766]);
        assert!(routes(&netlink).await.is_empty());
        netlink.remove().await.unwrap();
    });
}

#[test]
fn what_a_killed_daemon_left_behind_is_replaced() {
    in_namespace_async(|| async {
        let netlink = Netlink::new().unwrap();
        let killed = Tun::open("mesh0").unwrap();
        netlink.configure(&interface(&killed)).await.unwrap();
        drop(killed);
        assert_eq!(routes(&netlink).await.len(), 1);
        // That the block is unreachable, not merely without a route: a default route would not be asked.
        assert_eq!(
            connect("600::5", 0).unwrap_err().raw_os_error(),
            Some(libc::EHOSTUNREACH)
        );

        let tun = Tun::open("mesh0").unwrap();
        netlink.configure(&interface(&tun)).await.unwrap();
        assert_eq!(
            preferences(&netlink).await,
            [0, RULE_MARKED, RULE_LOOKUP, 32766]
        );
        assert_eq!(routes(&netlink).await.len(), 2);
        connect("600::5", 0).unwrap();
    });
}

#[test]
fn marked_packets_never_enter_the_overlay() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        netlink.configure(&interface(&tun)).await.unwrap();
        connect("6ff:ffff::5", 0).unwrap();
        let error = connect("6ff:ffff::5", MARK).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
        assert_eq!(
            connect("700::5", 0).unwrap_err().raw_os_error(),
            Some(libc::ENETUNREACH)
        );
    });
}

#[test]
fn an_interface_that_is_not_there_is_an_error_that_says_what_was_done() {
    in_namespace_async(|| async {
        let netlink = Netlink::new().unwrap();
        let nowhere = Interface {
            index: 4242,
            address: Ipv6Addr::LOCALHOST,
            mtu: 1420,
            queue_length: 200,
        };
        let error = netlink.configure(&nowhere).await.unwrap_err();
        assert!(
            matches!(
                error,
                NetlinkError::Kernel {
                    step: "set up the interface",
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn only_addresses_that_others_may_reach_are_listed() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        netlink.configure(&interface(&tun)).await.unwrap();
        let uplink = add_uplink(&netlink).await;
        let index = uplink.index();
        let v4 = IpAddr::from([192, 0, 2, 1]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for (address, length) in [(v4, 24), (v6, 64)] {
            let mut add = netlink.handle.address().add(index, address, length);
            add.message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            add.execute().await.unwrap();
        }
        assert_eq!(netlink.local_addresses().await.unwrap(), [v4, v6]);

        let down = LinkUnspec::new_with_index(index).down().build();
        netlink.handle.link().change(down).execute().await.unwrap();
        assert!(netlink.local_addresses().await.unwrap().is_empty());
    });
}

#[test]
fn changes_of_the_underlay_and_of_the_overlay_are_told_apart() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        let mut changes = Changes::watch(tun.index()).await.unwrap();

        netlink.configure(&interface(&tun)).await.unwrap();
        let of_overlay = Change {
            overlay: true,
            ..Change::default()
        };
        assert_eq!(changes.next().await, Some(of_overlay));
        let (lo, address) = (1, IpAddr::from([192, 0, 2, 77]));
        netlink
            .handle
            .address()
            .add(lo, address, 32)
            .execute()
            .await
            .unwrap();
        assert_eq!(
            changes.next().await,
            Some(Change {
                addresses: true,
                ..Change::default()
            })
        );

        let uplink = add_uplink(&netlink).await;
        let index = uplink.index();
        assert_eq!(
            changes.next().await,
            Some(Change {
                links: true,
                ..Change::default()
            })
        );

        let address = IpAddr::from([192, 0, 2, 1]);
        netlink
            .handle
            .address()
            .add(index, address, 24)
            .execute()
            .await
            .unwrap();
        assert_eq!(
            changes.next().await,
            Some(Change {
                addresses: true,
                ..Change::default()
            })
        );

        let address: IpAddr = "2001:db8::1".parse().unwrap();
        for flags in [
            AddressFlags::Nodad,
            AddressFlags::Nodad | AddressFlags::Noprefixroute,
        ] {
            let mut add = netlink.handle.address().add(index, address, 64).replace();
            add.message_mut()
                .attributes
                .push(AddressAttribute::Flags(flags));
            add.execute().await.unwrap();
        }
        assert_eq!(
            changes.next().await,
            Some(Change {
                addresses: true,
                ..Change::default()
            })
        );

        // The kernel tells of this one again; it is none.
        let mut add = netlink.handle.address().add(index, address, 64).replace();
        add.message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        add.execute().await.unwrap();
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway([192, 0, 2, 9].into())
            .build();
        netlink.handle.route().add(default).execute().await.unwrap();
        assert_eq!(
            changes.next().await,
            Some(Change {
                default_route: true,
                ..Change::default()
            })
        );

        drop(uplink);
        let gone = changes.next().await.unwrap();
        assert!(gone.addresses && gone.links, "{gone:?}");
    });
}

/// Does to the interface what people do, and waits until that is reported.
async fn touch(line: &str, changes: &mut Changes) {
    let mut words = line.split(' ');
    let mut command = std::process::Command::new(words.next().unwrap());
    assert!(command.args(words).status().unwrap().success(), "{line}");
    while !changes.next().await.unwrap().overlay {}
}

#[test]
fn what_was_taken_away_by_hand_is_put_back() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        let interface = interface(&tun);
        netlink.configure(&interface).await.unwrap();
        let mut changes = Changes::watch(tun.index()).await.unwrap();

        touch("ip link set mesh0 down", &mut changes).await;
        assert_eq!(netlink.mend(&interface).await.unwrap(), LinkState::Down);
        assert!(addresses_of(&netlink, tun.index()).await.is_empty());
        let error = connect("600::5", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));

        for line in [
            "ip link set mesh0 up",
            "ip addr flush dev mesh0",
            "ip -6 route flush table 5277",
            "ip -6 rule del pref 5271",
        ] {
            touch(line, &mut changes).await;
            assert_eq!(netlink.mend(&interface).await.unwrap(), LinkState::Up);
            assert_eq!(addresses_of(&netlink, tun.index()).await.len(), 1, "{line}");
            assert_eq!(routes(&netlink).await.len(), 2, "{line}");
            assert_eq!(
                preferences(&netlink).await,
                [0, RULE_MARKED, RULE_LOOKUP, 32766],
                "{line}"
            );
            connect("600::5", 0).unwrap();
        }
        // To mend what is whole changes nothing, or mending would never end.
        netlink.mend(&interface).await.unwrap();
        netlink.mend(&interface).await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    });
}

#[test]
fn what_another_version_left_is_removed_by_number() {
    in_namespace_async(|| async {
        let (netlink, tun) = (Netlink::new().unwrap(), Tun::open("mesh0").unwrap());
        netlink.configure(&interface(&tun)).await.unwrap();
        let untouched = preferences(&netlink).await;
        netlink.remove_left(&[99], &[98]).await.unwrap();
        assert_eq!(preferences(&netlink).await, untouched);
        netlink
            .remove_left(&[RULE_MARKED, RULE_LOOKUP], &[TABLE])
            .await
            .unwrap();
        assert_eq!(preferences(&netlink).await, [0, 32766]);
        assert!(routes(&netlink).await.is_empty());
    });
}
