use std::time::{Duration, Instant};

use super::{rate::Rate, token::Use, *};

const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn token() -> JoinToken {
    JoinToken::generate(HASH).unwrap()
}

#[test]
fn a_token_is_read_as_it_was_shown() {
    let token = token();
    assert_eq!(JoinToken::parse(&token.reveal()), Some(token.clone()));
    assert_eq!(JoinToken::parse(&format!(" {}\n", token.reveal())), Some(token.clone()));
    assert!(!format!("{token:?}").contains(token.reveal().split('.').nth(1).unwrap()));
    let whole = token.reveal();
    for bad in
        ["", "a.b.c", &whole[1..], &whole[..whole.len() - 1], &format!("{whole}.x"), &whole.to_uppercase()]
    {
        assert_eq!(JoinToken::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_record_admits_one_key_of_one_role_for_a_while() {
    let token = token();
    let record = JoinRecord::new(&token, JoinRole::Server, "ada", 1_000, 60_000);
    assert!(!serde_json::to_string(&record).unwrap().contains(token.reveal().split('.').nth(1).unwrap()));
    assert_eq!(record.admits(&token, JoinRole::Server, "k", 60_999), Ok(()));
    let over = record.admits(&token, JoinRole::Server, "k", 63_500);
    assert_eq!(over, Err(Refused::Expired { ago_s: 2 }));
    let role = record.admits(&token, JoinRole::Node, "k", 2_000);
    assert_eq!(role, Err(Refused::Role { have: JoinRole::Server, wanted: JoinRole::Node }));

    let used = Some(Use { key: "k".into(), name: "server-2".into() });
    let record = JoinRecord { used, ..record };
    assert_eq!(record.admits(&token, JoinRole::Server, "k", 2_000), Ok(()), "its answer may have been lost");
    let other = record.admits(&token, JoinRole::Server, "other", 2_000);
    assert_eq!(other, Err(Refused::Used { by: "server-2".into() }));
}

#[test]
fn who_does_not_know_the_secret_is_told_nothing() {
    let (token, mut guess) = (token(), token());
    let record = JoinRecord::new(&token, JoinRole::Server, "ada", 1_000, 1);
    guess.id.clone_from(&token.id);
    for (role, at) in [(JoinRole::Server, 1_000), (JoinRole::Node, 1_000), (JoinRole::Server, 9_000)] {
        assert_eq!(record.admits(&guess, role, "k", at), Err(Refused::Unknown));
    }
}

#[test]
fn joins_pass_at_their_rate() {
    let (rate, start) = (Rate::new(10.0, 20.0), Instant::now());
    assert_eq!((0..100).filter(|_| rate.pass(start)).count(), 20);
    let later = start + Duration::from_millis(500);
    assert_eq!((0..100).filter(|_| rate.pass(later)).count(), 5);
}
