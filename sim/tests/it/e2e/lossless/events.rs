//! What happens to an installation while requests go on.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt as _};
use rustix::process::Signal;
use sim::harness::kill;

use super::{super::PATIENCE, queue::Queue, site::Site, tally::Row, wait};

/// Workers stand still for this long after the beginning of an event, at most.
const STILL_MS: u64 = 200;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// More workers, or fewer where there is the most.
    Out,
    /// Fewer workers, or more where there is one.
    In,
    /// Routes, weights and answers change.
    Reload,
    /// The listener shows another certificate.
    Certificate,
    /// The next ticket key takes over.
    Tickets,
    /// The program's file is replaced, the agent dies and its successor runs the new one, and one worker after the other
    /// is replaced.
    Upgrade,
    /// The server ends in order and comes back.
    Server,
}

impl Event {
    /// One of each kind.
    pub(super) const ROUND: [Self; 7] =
        [Self::Out, Self::In, Self::Reload, Self::Certificate, Self::Tickets, Self::Upgrade, Self::Server];

    /// As reports call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Out => "scale out",
            Self::In => "scale in",
            Self::Reload => "reload",
            Self::Certificate => "certificate",
            Self::Tickets => "ticket keys",
            Self::Upgrade => "upgrade",
            Self::Server => "server restart",
        }
    }
}

impl Site {
    /// Has connections queued, lets the event begin, hears what is queued out, and waits for the event's end. Returns which
    /// it was.
    pub(super) fn hold(
        &mut self,
        event: Event,
        random: &mut (impl Rng + ?Sized),
        queued: &Row,
    ) -> Result<Event> {
        let most = self.size.workers;
        let event = match event {
            Event::Out if self.workers == most => Event::In,
            Event::In if self.workers == 1 => Event::Out,
            event => event,
        };
        let before = self.processes()?;
        let process = |word: &str| self.weir.child(word);
        let (agent, server) = (process("node")?, process("server")?);

        let queue = Queue::form(self, self.size.queued).context("queue connections")?;
        match event {
            Event::Out => self.scale(random.random_range(self.workers + 1..=most))?,
            Event::In => self.scale(random.random_range(1..self.workers))?,
            Event::Reload => self.reload()?,
            Event::Certificate => self.certify()?,
            Event::Tickets => drop(self.weir.ok(&["secrets", "rotate-tickets"])?),
            Event::Upgrade => {
                self.replace_program()?;
                kill(agent, Signal::KILL)?;
            }
            Event::Server => kill(server, Signal::TERM)?,
        }
        wait(Duration::from_millis(random.random_range(0..=STILL_MS)));
        queue.serve(&self.doors.tls("http/1.1")?, queued);

        match event {
            Event::Out | Event::In => self.is_scaled()?,
            Event::Reload => self.is_reloaded()?,
            Event::Certificate => self.is_certified()?,
            Event::Tickets => {}
            Event::Upgrade => self.upgrade(agent, &before)?,
            Event::Server => self.is_led(server)?,
        }
        Ok(event)
    }

    /// Waits for the agent that comes after `agent`, and replaces the workers of `before`.
    fn upgrade(&self, agent: u32, before: &BTreeMap<String, u32>) -> Result<()> {
        self.weir
            .wait(PATIENCE, "another agent", || Ok(self.weir.child("node").is_ok_and(|pid| pid != agent)))?;
        let next = self.weir.child("node")?;
        ensure!(self.is_upgraded(next), "the agent runs the file that was replaced");
        for worker in before.keys() {
            // By their names of before: what the server knows of them changes while the agent finds them.
            self.weir.ok(&["workers", "--drain", worker])?;
        }
        self.weir
            .wait(PATIENCE, "workers of the new version", || {
                let now = self.processes()?;
                Ok(now.len() == self.workers && now.keys().all(|worker| !before.contains_key(worker)))
            })
            .with_context(|| format!("{before:?}, now {:#?}", self.weir.workers()))?;
        for pid in self.processes()?.into_values() {
            ensure!(self.is_upgraded(pid), "worker {pid} runs the file that was replaced");
        }
        Ok(())
    }

    /// Waits for the server that comes after `server`, and until it knows all workers.
    fn is_led(&self, server: u32) -> Result<()> {
        self.weir.wait(PATIENCE, "another server", || {
            Ok(self.weir.child("server").is_ok_and(|pid| pid != server))
        })?;
        self.weir.wait(PATIENCE, "the workers with the next server", || {
            Ok(self.processes().is_ok_and(|workers| workers.len() == self.workers))
        })
    }
}
