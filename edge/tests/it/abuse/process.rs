//! The attacked worker from outside: where it listens, and what it takes of the machine.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use super::{cores, worker::Spec};

/// A worker in a process of its own; ends with this.
pub(crate) struct Process {
    child: Child,
    /// Its end is the worker's.
    _input: ChildStdin,
    ports: HashMap<(u16, String), SocketAddr>,
}

/// The program that is a worker where it is not this one: built for speed, say.
const PROGRAM: &str = "WEIR_ABUSED";

impl Process {
    pub(crate) fn start(spec: &Spec) -> Self {
        let mut command = match std::env::var_os(PROGRAM) {
            Some(program) => Command::new(program),
            None => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["abuse::is_a_worker", "--exact", "--ignored", "--nocapture"]);
                command
            }
        };
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        cores::part(&child);
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{}", serde_json::to_string(spec).unwrap()).unwrap();
        let mut ports = HashMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["port", port, transport, address] => {
                    let key = (port.parse().unwrap(), (*transport).to_owned());
                    ports.insert(key, address.parse().unwrap());
                }
                ["ready"] => return Self { child, _input: input, ports },
                _ => {}
            }
        }
        panic!("the worker did not start");
    }

    /// Where a Gateway's port is.
    pub(crate) fn tcp(&self, port: u16) -> SocketAddr {
        self.ports[&(port, "tcp".to_owned())]
    }

    /// Where a Gateway's port is by UDP.
    pub(crate) fn udp(&self, port: u16) -> SocketAddr {
        self.ports[&(port, "udp".to_owned())]
    }

    /// CPU time that it has taken, by the scheduler's account, which is exact.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let spent = tasks.map(|task| {
            // A thread that has just ended is no more.
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|spent| spent.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(spent.sum())
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> u64 {
        (self.memory_reader())()
    }

    /// Reads its resident memory.
    pub(crate) fn memory_reader(&self) -> impl Fn() -> u64 + use<> {
        let file = format!("/proc/{}/statm", self.child.id());
        move || resident(&file)
    }
}

fn resident(file: &str) -> u64 {
    let statm = fs::read_to_string(file).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
