//! What a daemon that has been taken over may still do: little.
//!
//! Two steps. [`protect_memory`] comes before the key is read. [`confine`] comes when everything is open and before the first thread
//! starts, since Landlock holds for the calling thread and those it starts. Neither is needed for the daemon to work: what the kernel
//! lacks is reported, not fatal.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::check;

/// Makes the memory of this process nobody else's: no core dumps, no reading by other processes of the same user, and no program
/// started from here gets rights that this one lacks.
///
/// # Errors
/// The system refused one of them.
pub fn protect_memory() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    Ok(())
}

/// What the daemon goes on needing of the file system and of TCP.
#[derive(Debug, Default)]
pub struct Needs {
    /// Directories to read in: the configuration's.
    pub readable: Vec<PathBuf>,
    /// Directories to keep files in: state and socket.
    pub writable: Vec<PathBuf>,
    /// TCP ports to listen on.
    pub listen: Vec<u16>,
}

/// A wall that could not be put up.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Landlock, and why.
    #[error("Landlock: {0}")]
    Landlock(String),
    /// seccomp, and why.
    #[error("seccomp: {0}")]
    Seccomp(String),
}

/// Takes from this thread, and from all it starts, every file, TCP port and system call that `needs` and the rest of the daemon do not
/// name. Returns what could not be taken.
pub fn confine(needs: &Needs) -> Vec<Missing> {
    let files = confine_files(needs).map_err(Missing::Landlock);
    let calls = confine_calls().map_err(Missing::Seccomp);
    [files, calls].into_iter().filter_map(Result::err).collect()
}

/// Takes from this thread, and from all it starts, every file and every TCP port to listen on; what is open stays open, and it may go on
/// to connect. [`confine`] takes that too, from all threads that come later: so only those that are confined here can.
///
/// # Errors
/// The kernel cannot.
pub fn confine_connections() -> Result<(), Missing> {
    let restrict = || -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::Signal)?
            .create()?;
        Ok(ruleset.restrict_self()?.ruleset)
    };
    enforced(restrict()).map_err(Missing::Landlock)
}

/// What the C library reads to resolve a name, in the file or through a module it loads. Whole directories, because a rule for a file
/// is lost when the file is replaced, as network managers replace `/etc/resolv.conf`. File permissions hold besides.
const RESOLVER: [&str; 8] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
];
const DEVICES: [&str; 2] = ["/dev/net/tun", "/dev/null"];
/// Name servers over TCP.
const DNS_PORT: u16 = 53;

fn confine_files(needs: &Needs) -> Result<(), String> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let keep =
        read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let paths = |paths: &[PathBuf], access: BitFlags<AccessFs>| -> Vec<_> {
        paths.iter().map(|path| (path.clone(), access)).collect()
    };
    let named = |paths: &[&str], access: BitFlags<AccessFs>| -> Vec<_> {
        paths
            .iter()
            .map(|path| (PathBuf::from(path), access))
            .collect()
    };
    let rules = [
        named(&RESOLVER, read),
        named(&DEVICES, device),
        paths(&needs.readable, read),
        paths(&needs.writable, keep),
    ];

    let restrict = || -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        // Each of these asks for the best that the kernel has, which is the crate's manner.
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::BindTcp)?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?
            .add_rule(NetPort::new(DNS_PORT, AccessNet::ConnectTcp))?;
        for &port in &needs.listen {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
        for (path, access) in rules.into_iter().flatten() {
            if let Some(file) = open(&path)? {
                let access = if path.is_dir() {
                    access
                } else {
                    access & AccessFs::from_file(abi)
                };
                ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
            }
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    enforced(restrict())
}

/// Takes from this thread, and from all it starts, every file but what the system tells a process of itself, and the listening on other
/// TCP ports than these; 0 is any port that the system chooses. It may connect to any: where others listen is their choice. System calls
/// are those of the whole process ([`confine`]).
///
/// # Errors
/// Why not.
pub fn confine_control_plane(listen: &std::collections::BTreeSet<u16>) -> Result<(), Missing> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let restrict = || -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::Signal)?
            .create()?;
        for &port in listen {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
        if let Some(file) = open(Path::new("/proc/self"))? {
            ruleset = ruleset.add_rule(PathBeneath::new(file, read))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    enforced(restrict()).map_err(Missing::Landlock)
}

fn enforced(status: Result<RulesetStatus, Box<dyn std::error::Error>>) -> Result<(), String> {
    match status {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(RulesetStatus::NotEnforced) => Err("this kernel does not have it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Nothing where there is no such file: what is not there needs no rule.
fn open(path: &Path) -> Result<Option<PathFd>, PathFdError> {
    match PathFd::new(path) {
        Ok(file) => Ok(Some(file)),
        Err(_) if !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The system calls of a running daemon: of the threads, of tokio, of the C library where it resolves names, and of its allocator.
/// No program is started, nothing is mounted, traced, or loaded into the kernel.
const CALLS: &[libc::c_long] = &[
    // Files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Sockets; which families, see below.
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads: without execve a new process is no more than a thread.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_prlimit64,
    // Who and what we are.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// The forms of the above that only older architectures have, and that C libraries use there.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];
/// Names of threads and of anonymous memory, which the C library's allocator gives.
const PRCTLS: [libc::c_int; 2] = [libc::PR_SET_NAME, libc::PR_SET_VMA];

/// Forbids every system call that is not listed. A forbidden one fails with EPERM, as without privilege, and the kernel logs it: it
/// could be one that another version of the C library makes for good reasons, and a tunnel that lost a refinement is better than a
/// machine that is cut off. For an attacker both are a wall.
fn confine_calls() -> Result<(), String> {
    let program = filter().map_err(|error| error.to_string())?;
    let length = u16::try_from(program.len()).map_err(|error| error.to_string())?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` points to `len` instructions that live until after the call, in the kernel's layout (both types are `repr(C)`
    // copies of `struct sock_filter`); the kernel copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    match check(result) {
        Ok(0) => Ok(()),
        Ok(thread) => Err(format!("thread {thread} has another filter")),
        Err(error) => Err(error.to_string()),
    }
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let one_of = |allowed: &[libc::c_int]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let rule = |value: &libc::c_int| {
            let value = u64::from(value.unsigned_abs());
            let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
            SeccompRule::new(vec![is_it])
        };
        allowed.iter().map(rule).collect()
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS
        .iter()
        .chain(OLD_CALLS)
        .map(|&call| (call, Vec::new()))
        .collect();
    rules.insert(libc::SYS_socket, one_of(&FAMILIES)?);
    rules.insert(libc::SYS_socketpair, one_of(&[libc::AF_UNIX])?);
    rules.insert(libc::SYS_prctl, one_of(&PRCTLS)?);
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter cannot be taken off again: each is tried on a thread of its own, and only its own.
    fn on_a_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(act).join().expect("no panic")
    }

    #[test]
    fn the_filter_is_one_that_the_kernel_takes() {
        let program = filter().unwrap();
        assert!(program.len() < 4096, "{} instructions", program.len());
        let refused = on_a_thread(move || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&program).unwrap();
            let error = std::net::UdpSocket::bind("127.0.0.1:0").err();
            assert!(error.is_none(), "{error:?}");
            // SAFETY: no pointers; refused by the filter.
            let result = unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) };
            check(result).unwrap_err().raw_os_error()
        });
        assert_eq!(refused, Some(libc::EPERM));
    }

    #[test]
    fn who_keeps_connections_has_no_files_and_listens_nowhere_where_the_kernel_has_landlock() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (confined, connected, file, port) = on_a_thread(move || {
            set_no_new_privs(true).unwrap();
            let confined = confine_connections();
            let connected = std::net::TcpStream::connect(address).map(drop);
            let file = std::fs::File::open("/proc/self/status");
            let port = std::net::TcpListener::bind("127.0.0.1:0");
            (confined, connected, file, port)
        });
        connected.unwrap();
        match confined {
            Ok(()) => {
                assert_eq!(file.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                assert_eq!(port.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            Err(why) => assert!(why.to_string().contains("does not have it"), "{why}"),
        }
    }

    #[test]
    fn files_outside_are_hidden_where_the_kernel_has_landlock() {
        let directory = tempfile::tempdir().unwrap();
        let [inside, outside] = ["inside", "outside"].map(|name| directory.path().join(name));
        for path in [&inside, &outside] {
            std::fs::create_dir(path).unwrap();
        }
        let [at, not_at] = [&inside, &outside].map(|path| path.join("file"));
        let needs = Needs {
            writable: vec![inside],
            ..Needs::default()
        };
        let (confined, wrote, refused, port) = on_a_thread(move || {
            set_no_new_privs(true).unwrap();
            let confined = confine_files(&needs);
            let port = std::net::TcpListener::bind("127.0.0.1:0");
            (
                confined,
                std::fs::write(at, "x"),
                std::fs::write(not_at, "x"),
                port,
            )
        });
        wrote.unwrap();
        match confined {
            Ok(()) => {
                assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                assert_eq!(port.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            Err(why) => assert!(why.contains("does not have it"), "{why}"),
        }
    }
}
