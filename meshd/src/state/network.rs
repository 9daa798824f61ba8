//! What is kept of a private network: `membership.json`, and the network's key where it was created.

use std::{
    fs,
    io::{self, Read},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use membership::{NetworkId, NetworkKey, Records};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Record, StateDir, StateError, check_private, io_error, open_nofollow};

/// `membership.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The id of the network that the node is in.
    pub network: String,
    /// Its records, as crate `membership` writes them, in base64.
    pub records: String,
}

impl Record for Membership {
    const FILE: &'static str = "membership.json";
    const VERSION: u32 = 1;
}

impl Membership {
    /// These records of a network.
    #[must_use]
    pub fn new(network: &NetworkId, records: &[u8]) -> Self {
        Self {
            network: network.to_string(),
            records: STANDARD.encode(records),
        }
    }

    /// The records, and how many were damaged; nothing if it makes no sense.
    #[must_use]
    pub fn records(&self) -> Option<(Records, usize)> {
        let network = self.network.parse().ok()?;
        let bytes = STANDARD.decode(&self.records).ok()?;
        Records::from_bytes(network, &bytes).ok()
    }
}

impl StateDir {
    /// The key of a network, if it was created here. Refuses a file that anybody else could have read.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn network_key(&self, network: &NetworkId) -> Result<Option<NetworkKey>, StateError> {
        let path = self.path().join(key_file(network));
        let file = match open_nofollow(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        let meta = file.metadata().map_err(io_error("reading", &path))?;
        if !meta.is_file() {
            return Err(StateError::NotAFile(path));
        }
        check_private(&path, &meta, None)?;
        let mut text = Zeroizing::new(String::with_capacity(128));
        file.take(66)
            .read_to_string(&mut text)
            .map_err(io_error("reading", &path))?;
        let key = NetworkKey::from_hex(text.trim_end()).ok();
        match key.filter(|key| key.id() == *network) {
            Some(key) => Ok(Some(key)),
            None => Err(StateError::NetworkKey(path)),
        }
    }

    /// Writes the key of a network. Durable when it returns.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write_network_key(&self, key: &NetworkKey) -> Result<(), StateError> {
        let name = key_file(&key.id());
        let mut line = key.to_hex();
        line.push('\n');
        let temp = self.write_temp(&name, line.as_bytes())?;
        let path = self.path().join(name);
        fs::rename(&temp, &path).map_err(io_error("writing", &path))?;
        self.sync()
    }

    /// Removes a record.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn remove<T: Record>(&self) -> Result<(), StateError> {
        let path = self.path().join(T::FILE);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("removing", &path)(error)),
        }
    }
}

/// Each network has its own file, so that none takes another's place.
fn key_file(network: &NetworkId) -> String {
    format!("network-{network}.key")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_network_key_comes_back_and_is_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::create(root.path().join("state")).unwrap();
        let key = NetworkKey::from_seed(&[7; 32]);
        assert!(state.network_key(&key.id()).unwrap().is_none());
        state.write_network_key(&key).unwrap();
        let read = state.network_key(&key.id()).unwrap().unwrap();
        assert_eq!(read.to_hex(), key.to_hex());
        let path = state.path().join(key_file(&key.id()));
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            state.network_key(&key.id()),
            Err(StateError::Open { mode: 0o640, .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, NetworkKey::from_seed(&[8; 32]).to_hex().as_bytes()).unwrap();
        assert!(matches!(
            state.network_key(&key.id()),
            Err(StateError::NetworkKey(_))
        ));
    }

    #[test]
    fn records_come_back() {
        let key = NetworkKey::from_seed(&[7; 32]);
        let name: membership::Name = "home".parse().unwrap();
        let node = membership::NodeKey::of_seed(&[1; 32]);
        let (records, _) = Records::found(&key, name.clone(), node, name, 1_700_000_000);
        let file = Membership::new(&key.id(), &records.to_bytes());
        let (read, damaged) = file.records().unwrap();
        assert_eq!((read.len(), damaged), (records.len(), 0));
        let nonsense = Membership {
            records: "?".to_owned(),
            ..file
        };
        assert!(nonsense.records().is_none());
    }
}
