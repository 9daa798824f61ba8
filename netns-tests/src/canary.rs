//! A text that nobody but the two ends of a session may see.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use crate::abuse::Dice;
use crate::host::Host;
use crate::moment::Moment;

/// Length of the text, in bytes: no accident.
const LENGTH: usize = 32;

/// Such a text.
#[derive(Clone, Debug)]
pub struct Canary(String);

impl Canary {
    /// One that has not been sent yet.
    pub fn new() -> Self {
        let mut dice = Dice::new(Moment::now().0);
        let letters = b"abcdefghijklmnopqrstuvwxyz";
        let text = (0..LENGTH).map(|_| char::from(letters[dice.below(letters.len())]));
        Self(text.collect())
    }

    /// Sends it in so many datagrams.
    #[track_caller]
    pub fn send(&self, host: &Host, target: SocketAddr, times: usize) {
        let sent = host.inside(|| {
            let socket = UdpSocket::bind("[::]:0")?;
            for _ in 0..times {
                socket.send_to(self.0.as_bytes(), target)?;
            }
            Ok::<_, std::io::Error>(())
        });
        sent.unwrap_or_else(|err| panic!("{}: the canary stays: {err}", host.name()));
    }

    /// Whether a capture holds it.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn is_in(&self, capture: &Path) -> bool {
        let bytes = std::fs::read(capture)
            .unwrap_or_else(|err| panic!("cannot read {}: {err}", capture.display()));
        bytes
            .windows(LENGTH)
            .any(|window| window == self.0.as_bytes())
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_where_it_is_and_nowhere_else() {
        let canary = Canary::new();
        let file = std::env::temp_dir().join(format!("netns-tests-canary-{}", std::process::id()));
        std::fs::write(&file, format!("a cage with {} in it", canary.0)).unwrap();
        assert!(canary.is_in(&file));
        std::fs::write(&file, "an empty cage, of more than thirty-two bytes").unwrap();
        assert!(!canary.is_in(&file));
        std::fs::remove_file(&file).unwrap();
    }
}
