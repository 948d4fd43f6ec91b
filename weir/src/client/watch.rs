//! `weir get --watch`: every change once, whatever becomes of the connection and the servers.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use api::{
    admin::{Epoch, Held, Object, ObjectChange, ObjectKey, WatchEvent, WatchRequest},
    client::Admin,
};
use tonic::{Code, Status};

use super::{
    get::{document, summary},
    refusal,
};
use crate::output::{self, Format};

/// Between attempts to reach a server: at first, and when it has been away for long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is watched.
pub(super) struct Wanted {
    pub(super) tenant: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: Option<String>,
}

/// Prints what there is, and every change from then on. Ends with a refusal only.
pub(super) async fn follow(mut client: Admin, wanted: Wanted, format: Format) -> Result<()> {
    let mut state = State::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = match client.objects.watch(state.request(&wanted)).await {
            Ok(events) => {
                let mut events = events.into_inner();
                loop {
                    match events.message().await {
                        Ok(Some(event)) => {
                            pause = FIRST_PAUSE;
                            for line in state.take(event) {
                                if line.is_wanted(&wanted) {
                                    output::text(&line.render(format)?)?;
                                }
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        state.lost(ended)?;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What was printed already.
#[derive(Default)]
struct State {
    /// The first revision that was not seen; 0: none was.
    from: u64,
    epoch: Option<Epoch>,
    /// History does not say what was missed: ask for the difference.
    resync: bool,
    held: BTreeMap<[String; 4], Held>,
    /// Parts of a difference, until it is whole.
    parts: Vec<ObjectChange>,
}

impl State {
    fn request(&mut self, wanted: &Wanted) -> WatchRequest {
        self.parts.clear();
        let resync = self.resync || self.from == 0;
        WatchRequest {
            tenant: wanted.tenant.clone(),
            kind: wanted.kind.clone(),
            from_revision: self.from,
            epoch: self.epoch,
            resync,
            held: if resync { self.held.values().cloned().collect() } else { vec![] },
        }
    }

    /// The lines that an event is worth.
    fn take(&mut self, event: WatchEvent) -> Vec<Line> {
        let first = self.from == 0;
        self.parts.extend(event.changes);
        if event.more {
            return vec![];
        }
        self.from = event.revision + 1;
        self.epoch = event.epoch;
        self.resync = false;
        let changes = std::mem::take(&mut self.parts);
        changes.into_iter().filter_map(|change| self.change(change, first, event.revision)).collect()
    }

    fn change(&mut self, change: ObjectChange, first: bool, revision: u64) -> Option<Line> {
        let key = change.key.unwrap_or_default();
        let id = [&key.tenant, &key.kind, &key.namespace, &key.name].map(String::clone);
        let Some(object) = change.object else {
            self.held.remove(&id)?;
            return Some(Line { what: "deleted", key, object: None, revision });
        };
        let held = Held { key: Some(key.clone()), revision: object.revision, digest: object.digest.clone() };
        let digest = held.digest.clone();
        let what = match self.held.insert(id, held) {
            Some(before) if before.digest == digest => return None,
            Some(_) => "configured",
            None if first => "present",
            None => "created",
        };
        let revision = object.revision;
        Some(Line { what, key, object: Some(object), revision })
    }

    /// The stream ended, or none began; how to go on, or that there is no use.
    fn lost(&mut self, status: Option<Status>) -> Result<()> {
        let Some(status) = status else { return Ok(()) };
        match status.code() {
            // Compacted, or restored: the difference is asked for. When that is refused so, it stays refused.
            Code::OutOfRange | Code::FailedPrecondition if !self.resync && self.from > 0 => {
                self.resync = true;
                Ok(())
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                output::note(&format!("the watch goes on when a server answers: {}", status.message()));
                Ok(())
            }
            _ => Err(refusal(status)),
        }
    }
}

/// One change.
struct Line {
    what: &'static str,
    key: ObjectKey,
    object: Option<Object>,
    revision: u64,
}

impl Line {
    fn is_wanted(&self, wanted: &Wanted) -> bool {
        let namespace = wanted.namespace.is_empty() || self.key.namespace == wanted.namespace;
        namespace && wanted.name.as_ref().is_none_or(|name| *name == self.key.name)
    }

    fn render(&self, format: Format) -> Result<String> {
        let Self { what, key, object, revision } = self;
        Ok(match format {
            Format::Table => {
                let conditions = object.as_ref().map(summary).unwrap_or_default();
                let name = format!("{}/{}", key.namespace, key.name);
                format!("{revision:<8}   {what:<10}   {:<14}   {name:<24}   {conditions}", key.kind)
                    .trim_end()
                    .to_owned()
                    + "\n"
            }
            Format::Json => format!("{}\n", self.value()),
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&self.value())?),
        })
    }

    fn value(&self) -> serde_json::Value {
        let Self { what, key, object, revision } = self;
        serde_json::json!({
            "revision": revision, "change": what, "tenant": key.tenant, "kind": key.kind,
            "namespace": key.namespace, "name": key.name, "object": object.as_ref().map(document),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, digest: Option<u8>) -> ObjectChange {
        let key = Some(ObjectKey { name: name.into(), ..Default::default() });
        let object = digest.map(|digest| Object { digest: vec![digest], ..Default::default() });
        ObjectChange { key, object }
    }

    fn told(state: &mut State, event: WatchEvent) -> Vec<(String, &'static str)> {
        state.take(event).into_iter().map(|line| (line.key.name, line.what)).collect()
    }

    #[test]
    fn each_change_is_told_once_through_differences_and_repetitions() {
        let mut state = State::default();
        let wanted = Wanted { tenant: "t".into(), kind: String::new(), namespace: String::new(), name: None };
        let whole = |revision, changes| WatchEvent { revision, changes, ..Default::default() };
        assert!(state.request(&wanted).resync);
        let part = WatchEvent { more: true, ..whole(5, vec![change("a", Some(1))]) };
        assert_eq!(told(&mut state, part.clone()), []);
        // The connection is lost between two parts: the difference begins anew.
        assert!(state.request(&wanted).resync);
        assert_eq!(told(&mut state, part), []);
        let rest = whole(5, vec![change("b", Some(2))]);
        assert_eq!(told(&mut state, rest), [("a".into(), "present"), ("b".into(), "present")]);

        let request = state.request(&wanted);
        assert_eq!((request.from_revision, request.resync, request.held.len()), (6, false, 0));
        let next = whole(6, vec![change("a", Some(3)), change("c", Some(4)), change("b", None)]);
        assert_eq!(told(&mut state, next).len(), 3);

        state.lost(Some(Status::out_of_range("compacted"))).unwrap();
        let request = state.request(&wanted);
        assert_eq!((request.resync, request.held.len()), (true, 2));
        let difference = whole(9, vec![change("a", Some(3)), change("b", None), change("c", None)]);
        assert_eq!(told(&mut state, difference), [("c".into(), "deleted")]);
        assert!(!state.request(&wanted).resync);
        assert!(state.lost(Some(Status::unauthenticated("revoked"))).is_err());
    }
}
