//! A process that gives up what it does not need: Landlock (landlock(7)) and `no_new_privs` (prctl(2)).
//!
//! Both hold for the thread that calls and for those that it starts from then on, and cannot be taken back: call it
//! before there is another thread.

use std::{
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

/// The newest interface whose rules are known here; an older kernel enforces those that it has.
const KNOWN: ABI = ABI::V6;

/// To open and list.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// To make, fill, rename and remove files as well, in one directory.
const WRITE: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile});
/// What a resolver and a TLS library read: configuration, shared libraries, the list of authorities, and where
/// `/etc/resolv.conf` may lead.
const SYSTEM: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/proc/self",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/urandom",
];

/// What a thread keeps, beside the files of the system that everybody may read. Execution, signals to others, and the
/// tracing of others are not among it.
#[derive(Debug, Default)]
pub struct Keeps {
    /// Files and directories to read.
    pub read: Vec<PathBuf>,
    /// Directories to write to, and files.
    pub write: Vec<PathBuf>,
    /// Whether it may listen on TCP ports of its own choice.
    pub listen: bool,
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    /// All of it.
    Fully,
    /// What this kernel's Landlock knows: the newer the kernel, the more.
    Partly,
    /// `no_new_privs` only: the kernel has no Landlock, or it is switched off.
    NotByLandlock,
}

/// Confines this thread and those that it starts from now on. Paths that do not exist are left out.
///
/// # Errors
///
/// If the kernel has Landlock and refuses, or `no_new_privs` cannot be set: the thread is as it was then.
pub fn confine(keeps: &Keeps) -> io::Result<Confined> {
    rustix::thread::set_no_new_privs(true)?;
    let status = restrict(keeps).map_err(io::Error::other)?;
    Ok(match status {
        RulesetStatus::FullyEnforced => Confined::Fully,
        RulesetStatus::PartiallyEnforced => Confined::Partly,
        RulesetStatus::NotEnforced => Confined::NotByLandlock,
    })
}

fn restrict(keeps: &Keeps) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    rules = rules.handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    if !keeps.listen {
        rules = rules.handle_access(AccessNet::BindTcp)?;
    }
    let system = SYSTEM.iter().map(Path::new);
    let rules = rules
        .create()?
        .add_rules(path_beneath_rules(system.chain(keeps.read.iter().map(PathBuf::as_path)), READ))?
        .add_rules(path_beneath_rules(&keeps.write, WRITE))?;
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, process::Command, thread};

    use super::*;

    /// On a thread of its own: the tests beside it must go on as they were.
    fn confined<T: Send + 'static>(keeps: Keeps, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let thread = thread::spawn(move || {
            let confined = confine(&keeps).unwrap();
            assert!(rustix::thread::no_new_privs().unwrap());
            (confined != Confined::NotByLandlock).then(act)
        });
        let done = thread.join().unwrap();
        if done.is_none() {
            println!("skipped: this kernel has no Landlock");
        }
        done
    }

    fn is_denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn what_is_not_kept_is_denied() {
        let (own, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, secret) = (own.path().join("cache"), others.path().join("secret"));
        fs::write(&secret, "key").unwrap();
        let keeps = Keeps { write: vec![own.path().to_owned()], ..Keeps::default() };
        let other = others.path().to_owned();
        confined(keeps, move || {
            fs::write(cache.with_extension("new"), "state").unwrap();
            fs::rename(cache.with_extension("new"), &cache).unwrap();
            assert_eq!(fs::read_to_string(&cache).unwrap(), "state");
            fs::remove_file(&cache).unwrap();
            fs::read_to_string("/etc/passwd").unwrap();
            fs::read_to_string("/proc/self/statm").unwrap();

            assert!(is_denied(fs::read_to_string(&secret)), "reads others' files");
            assert!(is_denied(fs::read_dir(&other)), "lists others' directories");
            assert!(is_denied(fs::write(other.join("new"), "")), "writes elsewhere");
            assert!(is_denied(fs::write(&secret, "")), "writes others' files");
            assert!(is_denied(fs::remove_file(&secret)), "removes others' files");
            assert!(fs::hard_link(&secret, &cache).is_err(), "brings others' files to where it may read");
            assert!(is_denied(Command::new("/bin/true").status()), "starts programs");
            assert!(is_denied(fs::read("/proc/1/environ")), "reads others' environment");
        });
        assert_eq!(fs::read_to_string(others.path().join("secret")).unwrap(), "key");
    }

    #[test]
    fn who_does_not_listen_may_only_connect() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = there.local_addr().unwrap();
        confined(Keeps::default(), move || {
            std::net::TcpStream::connect(address).unwrap();
            let bound = TcpListener::bind("127.0.0.1:0");
            // Landlock knows of ports since Linux 6.7.
            assert!(is_denied(bound) || !knows_ports(), "listens");
        });
        confined(Keeps { listen: true, ..Keeps::default() }, || TcpListener::bind("127.0.0.1:0").unwrap());
    }

    fn knows_ports() -> bool {
        use landlock::RulesetAttr as _;
        let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        hard.handle_access(AccessNet::BindTcp).is_ok()
    }

    #[test]
    fn a_thread_that_it_starts_is_confined_as_well() {
        let elsewhere = tempfile::tempdir().unwrap();
        let path = elsewhere.path().join("new");
        confined(Keeps::default(), move || {
            let child = thread::spawn(move || fs::write(path, "")).join().unwrap();
            assert!(is_denied(child));
        });
    }
}
