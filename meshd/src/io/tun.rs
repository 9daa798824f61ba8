//! The TUN device, opened so that one system call moves up to 64 KB.

use std::ffi::{CStr, c_short};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use super::check;

const PATH: &CStr = c"/dev/net/tun";

/// One queue of a TUN device. Every read and write carries a virtio header (see [`offload`](super::offload)) before the packet.
///
/// The device of the host is not persistent: it disappears, with its addresses and routes, when the last queue is dropped or the
/// process dies. That of a workload is ([`Tun::set_persistence`]). Reads and writes take `&self`; a thread that reads and one that writes may share it.
pub struct Tun {
    device: tun::Device,
    name: String,
    index: u32,
    offload: Offload,
    #[cfg(feature = "_sim")]
    simulated: Option<super::simulated::Frames>,
}

/// Which super-packets the kernel hands over and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// TCP only: the kernel is older than Linux 6.2. UDP must be written one packet at a time.
    Tcp,
    /// TCP and UDP.
    TcpAndUdp,
}

/// Why a TUN device could not be opened. The text names the next step.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `/dev/net/tun` is missing.
    #[error(
        "/dev/net/tun does not exist: load the driver with `modprobe tun` (in a container, pass the device in)"
    )]
    NoDriver,
    /// The process lacks CAP_NET_ADMIN or access to the device file.
    #[error(
        "not permitted to create the TUN device {name:?}: meshd needs CAP_NET_ADMIN and access to /dev/net/tun (run it as root or as the systemd unit)"
    )]
    NotPermitted {
        /// The device's name.
        name: String,
    },
    /// Another interface has that name.
    #[error(
        "an interface named {name:?} exists already: stop what made it, or choose another name (see `ip link show dev {name}`)"
    )]
    InUse {
        /// The device's name.
        name: String,
    },
    /// Empty, longer than 15 bytes, or with a character that the kernel or its tools refuse.
    #[error("{name:?} is no interface name: 1 to 15 bytes of letters, digits, `-`, `_` and `.`")]
    BadName {
        /// The name that was asked for.
        name: String,
    },
    /// Anything else.
    #[error("cannot {step} the TUN device {name:?}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// The device's name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Whether a device outlives those who have it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It stays until somebody removes it, or its network namespace dies.
    Stays,
    /// It goes with the last descriptor.
    Goes,
}

/// Why a descriptor is not the device of a workload.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// No TUN device at all.
    #[error("the descriptor is no TUN device")]
    NotTun(#[source] io::Error),
    /// A TUN device of another kind.
    #[error(
        "the TUN device has flags {flags:#x} and a header of {header} bytes, which is not how meshd makes one"
    )]
    Kind {
        /// Its `IFF_` flags.
        flags: i32,
        /// Length of its virtio header.
        header: i32,
    },
    /// The system refused.
    #[error("cannot use the TUN device")]
    Kernel(#[source] io::Error),
}

impl Tun {
    /// Creates the device `name` with one queue, down and without an address; never takes over an existing interface.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        check_name(name)?;
        // Multi-queue also for one queue: the flag cannot be added later.
        Self::attach(name, libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL)
    }

    /// Opens one more queue of the same device. The kernel spreads flows over the queues; a flow stays in its queue.
    pub fn queue(&self) -> Result<Self, OpenError> {
        Self::attach(&self.name, libc::IFF_MULTI_QUEUE)
    }

    /// Creates the device of a workload, in the network namespace of this thread: it has one queue for good, so that it cannot be in two
    /// hands. The descriptor keeps that namespace alive, wherever the device is moved.
    pub fn open_for_workload(name: &str) -> Result<Self, OpenError> {
        check_name(name)?;
        Self::attach(name, libc::IFF_TUN_EXCL)
    }

    /// Opens the device of a workload again; it is in the network namespace of this thread, and nobody has it open.
    pub fn open_again(name: &str) -> Result<Self, OpenError> {
        check_name(name)?;
        Self::attach(name, 0)
    }

    /// The device of a workload that somebody handed over, if that is what it is. It may be in any network namespace.
    ///
    /// # Errors
    /// [`AdoptError`]: it is something else.
    pub fn adopt(fd: OwnedFd) -> Result<Self, AdoptError> {
        // SAFETY: ifreq is plain data for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes one ifreq, which lives through the call; of another descriptor it is an error.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })
            .map_err(AdoptError::NotTun)?;
        let mut header: libc::c_int = 0;
        // SAFETY: TUNGETVNETHDRSZ writes one int, which lives through the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut header) })
            .map_err(AdoptError::NotTun)?;
        // SAFETY: TUNGETIFF has filled in the flags of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let unwanted = libc::IFF_TAP | libc::IFF_MULTI_QUEUE;
        if flags & (wanted | unwanted) != wanted
            || usize::try_from(header) != Ok(super::offload::HEADER)
        {
            return Err(AdoptError::Kind { flags, header });
        }
        let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
        let name: String = name.map(|byte| char::from(byte.cast_unsigned())).collect();
        set_nonblocking(&fd).map_err(AdoptError::Kernel)?;
        let offload = enable_offloads(&fd).map_err(AdoptError::Kernel)?;
        // The index is that of another namespace, and nobody's business here.
        Self::own(fd, &name, 0, offload).map_err(AdoptError::Kernel)
    }

    /// Makes the device outlive its descriptors, or not.
    ///
    /// # Errors
    /// The device is gone.
    pub fn set_persistence(&self, persistence: Persistence) -> io::Result<()> {
        let persists = libc::c_ulong::from(persistence == Persistence::Stays);
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETPERSIST, persists) })
            .map(drop)
    }

    fn attach(name: &str, further: i32) -> Result<Self, OpenError> {
        let failed = |step, source: io::Error| open_error(step, name, source);
        // SAFETY: the path is a string that ends with a zero byte.
        let fd = check(unsafe {
            libc::open(
                PATH.as_ptr(),
                libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
            )
        })
        .map_err(|source| failed("open", source))?;
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };

        // SAFETY: ifreq is plain data for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | further;
        request.ifr_ifru.ifru_flags = flags as c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
            .map_err(|source| failed("create", source))?;

        let offload =
            enable_offloads(&fd).map_err(|source| failed("enable offloads of", source))?;
        let index = index_of(name).map_err(|source| failed("find the index of", source))?;
        Self::own(fd, name, index, offload).map_err(|source| failed("take over", source))
    }

    fn own(fd: OwnedFd, name: &str, index: u32, offload: Offload) -> io::Result<Self> {
        let mut configuration = tun::Configuration::default();
        configuration
            .raw_fd(fd.into_raw_fd())
            .close_fd_on_drop(true)
            .tun_name(name);
        let device = tun::Device::new(&configuration).map_err(io::Error::other)?;
        Ok(Self {
            device,
            name: name.to_owned(),
            index,
            offload,
            #[cfg(feature = "_sim")]
            simulated: None,
        })
    }

    /// A device without a kernel behind it, for simulations: frames wait in memory.
    #[cfg(feature = "_sim")]
    pub fn simulated() -> io::Result<Self> {
        let null = std::fs::File::open("/dev/null")?;
        let mut configuration = tun::Configuration::default();
        configuration
            .raw_fd(null.into_raw_fd())
            .close_fd_on_drop(true);
        let device = tun::Device::new(&configuration).map_err(io::Error::other)?;
        Ok(Self {
            device,
            name: "mesh0".to_owned(),
            index: 0,
            offload: Offload::TcpAndUdp,
            simulated: Some(super::simulated::Frames::default()),
        })
    }

    /// The frames of a simulated device.
    #[cfg(feature = "_sim")]
    pub fn frames(&self) -> Option<&super::simulated::Frames> {
        self.simulated.as_ref()
    }

    /// Reads one virtio header and packet into `buffer`, which should hold [`offload::FRAME`](super::offload::FRAME) bytes.
    ///
    /// `None`: nothing to read. A packet that does not fit is cut short by the kernel. An error (EBADFD) means that the
    /// device was deleted.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        #[cfg(feature = "_sim")]
        if let Some(frames) = &self.simulated {
            return Ok(frames.read(buffer));
        }
        loop {
            // SAFETY: the pointer is valid for writes of the length given.
            let read = unsafe {
                libc::read(
                    self.device.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            };
            match check(read as i64) {
                Ok(length) => return Ok(Some(length.unsigned_abs() as usize)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes one packet: the slices together are a virtio header and the packet, at most 1,024 of them.
    ///
    /// EINVAL: the kernel did not believe the header; EIO: the interface is down; EBADFD: it was deleted.
    pub fn write(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        #[cfg(feature = "_sim")]
        if let Some(frames) = &self.simulated {
            frames.write(frame);
            return Ok(());
        }
        let count = libc::c_int::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: IoSlice has the layout of iovec, and the slices are valid for reads through the call.
            let written =
                unsafe { libc::writev(self.device.as_raw_fd(), frame.as_ptr().cast(), count) };
            match check(written as i64) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index, for [`netlink`](super::netlink); 0 if it was [handed over](Self::adopt).
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the kernel takes in one write.
    pub fn offload(&self) -> Offload {
        self.offload
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device owns the descriptor and closes it only when it is dropped, which the borrow prevents.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("index", &self.index)
            .field("offload", &self.offload)
            .finish_non_exhaustive()
    }
}

fn check_name(name: &str) -> Result<(), OpenError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || !name.bytes().all(plain)
        || matches!(name, "." | "..")
    {
        return Err(OpenError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and return integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Enables what the kernel has; says what that is.
fn enable_offloads(fd: &OwnedFd) -> io::Result<Offload> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    if set_offload(fd, tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
        return Ok(Offload::TcpAndUdp);
    }
    set_offload(fd, tcp)?;
    Ok(Offload::Tcp)
}

fn set_offload(fd: &OwnedFd, features: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(features),
        )
    })
    .map(drop)
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a string that ends with a zero byte.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn open_error(step: &'static str, name: &str, source: io::Error) -> OpenError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) if step == "open" => OpenError::NoDriver,
        Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted { name },
        Some(libc::EBUSY) => OpenError::InUse { name },
        _ => OpenError::Kernel { step, name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::{drop_privileges, in_namespace};

    #[test]
    fn a_bad_name_is_refused_before_the_kernel_sees_it() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "tun%d", ".."] {
            assert!(
                matches!(Tun::open(name), Err(OpenError::BadName { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn every_failure_names_the_next_step() {
        let error = |step, errno| {
            open_error(step, "mesh0", io::Error::from_raw_os_error(errno)).to_string()
        };
        assert!(error("open", libc::ENOENT).contains("modprobe tun"));
        assert!(error("create", libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(error("create", libc::EBUSY).contains("ip link show dev mesh0"));
        assert!(error("create", libc::EINVAL).contains("cannot create"));
    }

    #[test]
    fn a_name_in_use_is_refused_but_a_queue_may_be_added() {
        in_namespace(|| {
            let first = Tun::open("mesh0").unwrap();
            assert!(matches!(Tun::open("mesh0"), Err(OpenError::InUse { .. })));
            assert!(matches!(Tun::open("lo"), Err(OpenError::InUse { .. })));
            let second = first.queue().unwrap();
            assert_eq!(first.index(), second.index());
            assert_eq!(first.read(&mut [0; 64]).unwrap(), None);
        });
    }

    #[test]
    fn a_workloads_device_is_adopted_and_nothing_else_is() {
        in_namespace(|| {
            let made = Tun::open_for_workload("web0").unwrap();
            let copy = made.as_fd().try_clone_to_owned().unwrap();
            let adopted = Tun::adopt(copy).unwrap();
            assert_eq!(adopted.name(), "web0");
            assert_eq!(adopted.offload(), made.offload());
            let host = Tun::open("mesh0").unwrap();
            let copy = host.as_fd().try_clone_to_owned().unwrap();
            assert!(matches!(Tun::adopt(copy), Err(AdoptError::Kind { .. })));
            let null = std::fs::File::open("/dev/null").unwrap();
            assert!(matches!(
                Tun::adopt(null.into()),
                Err(AdoptError::NotTun(_))
            ));
        });
    }

    #[test]
    fn a_persistent_device_is_in_one_pair_of_hands_and_waits_for_the_next() {
        in_namespace(|| {
            let first = Tun::open_for_workload("web0").unwrap();
            first.set_persistence(Persistence::Stays).unwrap();
            assert!(matches!(
                Tun::open_again("web0"),
                Err(OpenError::InUse { .. })
            ));
            let index = first.index();
            drop(first);
            let second = Tun::open_again("web0").unwrap();
            assert_eq!(second.index(), index);
            second.set_persistence(Persistence::Goes).unwrap();
            drop(second);
            assert!(index_of("web0").is_err());
        });
    }

    #[test]
    fn without_privileges_the_error_says_what_is_missing() {
        in_namespace(|| {
            drop_privileges().unwrap();
            assert!(matches!(
                Tun::open("mesh0"),
                Err(OpenError::NotPermitted { .. })
            ));
        });
    }

    #[test]
    fn a_dropped_device_leaves_nothing_behind() {
        in_namespace(|| {
            drop(Tun::open("mesh0").unwrap());
            assert!(index_of("mesh0").is_err());
            let again = Tun::open("mesh0").unwrap();
            assert_eq!(index_of("mesh0").unwrap(), again.index());
        });
    }
}
