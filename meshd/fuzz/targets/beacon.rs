//! What a fuzzer's bytes are as a beacon: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use meshd::beacon::{Beacon, HOP_LIMIT, Link, Own, Refused, Speaker, Voice};
use meshd::network::Network;

const HERE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);
const INTERFACE: u32 = 3;

/// Whatever comes, it is refused or leads nowhere but onto the link; and what is heard again at once is no news.
pub(crate) fn hear(bytes: &[u8]) {
    let now = Instant::now();
    let own = Own {
        key: [1; 32],
        run: [2; 8],
        port_v6: 51860,
        port_v4: 51860,
    };
    let mut speaker = Speaker::new(own, 1, now);
    let networks = vec!["192.0.2.1/24".parse().expect("a network")];
    let link = Link {
        interface: INTERFACE,
        source: HERE,
        networks,
    };
    speaker.set_links(vec![link], now);
    speaker.set_voice(Voice::Loud, now);
    let parsed = Beacon::parse(bytes, &Network::default());
    match speaker.handle_datagram(INTERFACE, THERE, HOP_LIMIT, bytes, now) {
        Ok(heard) => {
            assert!(parsed.is_ok());
            for endpoint in heard.endpoints {
                let text = endpoint.to_string();
                let is_on_link = text.starts_with("[fe80::b%3]:") || text.starts_with("192.0.2.");
                assert!(is_on_link && endpoint.port() != 0, "{text}");
            }
            let again = speaker.handle_datagram(INTERFACE, THERE, HOP_LIMIT, bytes, now);
            assert_eq!(again, Err(Refused::Repeated));
        }
        Err(refused) => assert_eq!(
            parsed.is_err(),
            matches!(refused, Refused::Malformed | Refused::Foreign)
        ),
    }
    let mut spoken = 0;
    while let Some(due) = speaker
        .poll_timeout()
        .filter(|due| *due < now + Duration::from_secs(5))
    {
        while speaker.poll_beacon(due).is_some() {
            spoken += 1;
        }
    }
    assert!(spoken <= 7, "{spoken} beacons");
}
