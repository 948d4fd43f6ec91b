use super::*;

fn ticket() -> Ticket {
    Ticket { origin: 7, number: 9 }
}

#[test]
fn a_command_reads_as_it_was_written() {
    let txn = Txn::new("ada")
        .compare("a", Revision(3))
        .put("a", "one")
        .put("empty", Bytes::new())
        .delete("b")
        .note("why")
        .origin("127.0.0.1:9")
        .quota("a/", Some(Quota { max_keys: 1, max_bytes: 2 }));
    for command in [Command::Txn { txn, time_ms: -5 }, Command::Compact { revision: Revision(8) }] {
        assert_eq!(Command::decode(&command.encode(ticket())), Ok((ticket(), command)));
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    let good = Command::Txn { txn: Txn::new("ada").put("a", "one"), time_ms: 5 }.encode(ticket());
    for cut in 0..good.len() {
        // A cut may still be a valid shorter message; it must never panic.
        let _outcome = Command::decode(&good[..cut]);
    }
    assert!(Command::decode(b"").is_err());
    assert!(Command::decode(&[0xff; 32]).is_err());
}

#[test]
fn bounds_are_checked() {
    let check = |txn: Txn| txn.check();
    assert_eq!(check(Txn::new("a").put("k", vec![0; MAX_VALUE])), Ok(()));
    let too_large = InvalidTxn::Value { key: "k".into(), size: MAX_VALUE + 1 };
    assert_eq!(check(Txn::new("a").put("k", vec![0; MAX_VALUE + 1])), Err(too_large));
    assert_eq!(check(Txn::new("a").put("", "v")), Err(InvalidTxn::Key("".into())));
    assert!(matches!(check(Txn::new("a").delete("k".repeat(MAX_KEY + 1))), Err(InvalidTxn::Key(_))));
    assert_eq!(check(Txn::new("a").put("k", "v").delete("k")), Err(InvalidTxn::Twice("k".into())));
    assert_eq!(check(Txn { request_id: String::new(), ..Txn::new("a") }), Err(InvalidTxn::RequestId));
    assert_eq!(check(Txn::new("a".repeat(MAX_ACTOR + 1))), Err(InvalidTxn::Audit));
    assert_eq!(check(Txn::new("a").origin("a".repeat(MAX_ORIGIN + 1))), Err(InvalidTxn::Audit));
    for (key, value) in [("quotas/a/", "\u{0}"), ("quotas/a", ""), ("quotas/", ""), ("quotas//", "\u{8}")] {
        assert_eq!(check(Txn::new("a").put(key, value)), Err(InvalidTxn::Quota(key.into())), "{key}");
    }
    let many = (0..=MAX_OPS).fold(Txn::new("a"), |txn, i| txn.delete(format!("k{i}")));
    assert_eq!(check(many), Err(InvalidTxn::Ops));
    let large = (0..6).fold(Txn::new("a"), |txn, i| txn.put(format!("k{i}"), vec![0; MAX_VALUE]));
    assert!(matches!(check(large), Err(InvalidTxn::Size(_))));
}

#[test]
fn a_fingerprint_is_of_the_change_and_not_of_its_audit() {
    let one = Txn::new("ada").put("a", "1");
    assert_eq!(one.fingerprint(), Txn::new("bob").put("a", "1").note("again").origin("x").fingerprint());
    for other in [
        Txn::new("ada").put("a", "2"),
        Txn::new("ada").put("a1", ""),
        Txn::new("ada").delete("a"),
        Txn::new("ada").put("a", "1").compare("a", Revision(0)),
    ] {
        assert_ne!(one.fingerprint(), other.fingerprint(), "{other:?}");
    }
}
