//! The keys of session tickets: made, kept sealed, fed to workers, rotated and revoked.

use api::{
    admin::{ResealRequest, RotateTicketKeysRequest},
    convert,
    feed::{Hello, TicketKeys},
};
use store::{Read, seal};
use tonic::{Code, Status};

use crate::{
    feed::{Worker, hello},
    harness::{Harness, within},
};

impl Harness {
    async fn rotate_tickets(&self, revoke: bool) -> Result<u64, Status> {
        let request = RotateTicketKeysRequest { revoke };
        Ok(self.platform().secrets.rotate_ticket_keys(request).await?.into_inner().revision)
    }

    /// What a worker gets that has these.
    async fn ticket_keys(&self, has: Option<&TicketKeys>) -> Option<TicketKeys> {
        let ticket_keys_hash = has.map(|keys| convert::message_hash(keys).to_vec()).unwrap_or_default();
        let mut worker = Worker::connect(self, Hello { ticket_keys_hash, ..hello("w") }).await.unwrap();
        worker.delta().await.ticket_keys
    }
}

fn names(keys: &TicketKeys) -> Vec<&[u8]> {
    keys.keys.iter().map(|key| key.name.as_slice()).collect()
}

#[tokio::test]
async fn workers_get_the_keys_that_the_store_keeps_sealed_and_those_that_follow() {
    let harness = Harness::start().await;
    let first = harness.ticket_keys(None).await.unwrap();
    assert_eq!(first.keys.len(), 2, "one that seals, and the next");
    assert_eq!(harness.ticket_keys(Some(&first)).await, None, "who has them is not sent them");
    let stored = harness.store.get(controller::keys::TICKET_KEYS, Read::Local).await.unwrap().unwrap();
    for key in &first.keys {
        for bytes in [&key.secret, &key.name] {
            assert!(!stored.value.windows(bytes.len()).any(|window| window == bytes));
        }
    }

    let mut worker = Worker::connect(&harness, hello("follower")).await.unwrap();
    let begun = worker.delta().await;
    worker.ack(&begun).await;
    assert_eq!(begun.ticket_keys.as_ref(), Some(&first));
    let revision = harness.rotate_tickets(false).await.unwrap();
    let change = worker.delta().await;
    assert_eq!(change.revision, revision);
    assert!(change.pool.is_none() && change.hosts.is_none() && change.tenants.is_empty());
    let second = change.ticket_keys.clone().unwrap();
    assert_eq!(names(&second)[..2], names(&first)[..], "what sealed opens, what was next seals");
    assert!(second.keys[1].from_s < first.keys[1].from_s && second.keys.len() == 3);
    worker.ack(&change).await;

    harness.rotate_tickets(true).await.unwrap();
    let third = worker.delta().await.ticket_keys.unwrap();
    assert!(names(&third).iter().all(|name| !names(&second).contains(name)), "nothing opens any more");
    let notes = harness.store.audit(stored.mod_revision, 100).unwrap();
    let notes: Vec<_> = notes.into_iter().map(|record| (record.actor, record.note)).collect();
    assert!(notes.iter().any(|(_, note)| note.contains("revoke")), "{notes:?}");
}

#[tokio::test]
async fn the_keys_are_sealed_anew_with_all_else_and_rotated_by_the_administrator_alone() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let refused = acme.secrets.clone().rotate_ticket_keys(RotateTicketKeysRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    let before = harness.ticket_keys(None).await;
    let new = seal::add_key(&harness.directory.path().join("kek")).unwrap();
    let request = ResealRequest { key: new.to_string() };
    let answer = within(harness.platform().secrets.reseal(request)).await.unwrap().into_inner();
    assert_eq!((answer.resealed, answer.remaining), (1, 0), "{answer:?}");
    let stored = harness.store.get(controller::keys::TICKET_KEYS, Read::Local).await.unwrap().unwrap();
    assert_eq!(seal::key_of(&stored.value), Some(new));
    assert_eq!(harness.ticket_keys(None).await, before, "the same keys");
    // With the new key, too.
    harness.rotate_tickets(false).await.unwrap();
}

#[tokio::test]
async fn keys_that_do_not_open_are_left_alone_until_they_are_revoked() {
    let harness = Harness::start().await;
    let txn = store::Txn::new("test").put(controller::keys::TICKET_KEYS, "rotten");
    harness.store.txn(txn).await.unwrap();
    let refused = harness.rotate_tickets(false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("--revoke"), "{refused}");
    harness.rotate_tickets(true).await.unwrap();
    harness.rotate_tickets(false).await.unwrap();
}
