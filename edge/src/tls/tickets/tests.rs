use model::Revision;

use super::*;
use crate::config::PoolSettings;

const NOW: u64 = 1_900_000_000;
const SESSION: &[u8] = b"a session as rustls writes it, with its secrets";

fn keys(first: u8) -> TicketKeys {
    let mut number = first;
    TicketKeys::first(NOW, &mut || {
        number += 1;
        ([number; 16], [number; 32])
    })
}

fn scope(tenant: &str) -> Scope {
    Scope::listener(&tenant.parse().unwrap(), 443, None, [].into_iter(), None)
}

#[test]
fn a_ticket_opens_with_the_same_keys_and_shows_nothing() {
    let (here, there) = (Keyring::new(keys(0)), Keyring::new(keys(0)));
    let ticket = here.seal(&scope("acme"), SESSION, NOW).unwrap();
    assert_eq!(ticket.len(), SESSION.len() + OVERHEAD);
    assert_eq!(ticket.capacity(), ticket.len(), "one allocation");
    assert!(!ticket.windows(8).any(|w| SESSION.windows(8).any(|s| s == w)));
    assert_eq!(there.open(&scope("acme"), &ticket, NOW).as_deref(), Ok(SESSION));
    let again = here.seal(&scope("acme"), SESSION, NOW).unwrap();
    assert_ne!(ticket[NAME_LEN..], again[NAME_LEN..], "nobody can tell that it is the same session");
}

#[test]
fn a_ticket_opens_only_where_it_was_given() {
    let ring = Keyring::new(keys(0));
    let der = |byte: u8| vec![CertificateDer::from(vec![byte; 4])];
    let (one, other, both) = (der(1), der(2), [der(1), der(2)].concat());
    let host: HostPattern = HostPattern::parse("a.test").unwrap();
    let acme: TenantId = "acme".parse().unwrap();
    let listener = |port, host, chains: &[&[CertificateDer<'static>]]| {
        Scope::listener(&acme, port, host, chains.iter().copied(), None)
    };
    let scopes = [
        Scope::nobody(443),
        Scope::nobody(8443),
        Scope::listener(&"globex".parse().unwrap(), 443, Some(&host), [one.as_slice()].into_iter(), None),
        listener(443, Some(&host), &[&one]),
        listener(8443, Some(&host), &[&one]),
        listener(443, None, &[&one]),
        listener(443, Some(&host), &[]),
        listener(443, Some(&host), &[&other]),
        // One chain of two certificates is not two chains of one.
        listener(443, Some(&host), &[&both]),
        listener(443, Some(&host), &[&one, &other]),
    ];
    for (given, sealing) in scopes.iter().enumerate() {
        let ticket = ring.seal(sealing, SESSION, NOW).unwrap();
        for (asked, opening) in scopes.iter().enumerate() {
            let expect = if given == asked { Ok(SESSION) } else { Err(Refused::Invalid) };
            assert_eq!(
                ring.open(opening, &ticket, NOW).as_deref(),
                expect.as_ref().copied(),
                "{given} {asked}"
            );
        }
    }
}

#[test]
fn what_was_touched_cut_or_made_up_is_refused() {
    let ring = Keyring::new(keys(0));
    let ticket = ring.seal(&scope("acme"), SESSION, NOW).unwrap();
    for at in 0..ticket.len() {
        let mut touched = ticket.clone();
        touched[at] ^= 1;
        let expect = if at < NAME_LEN { Refused::Unknown } else { Refused::Invalid };
        assert_eq!(ring.open(&scope("acme"), &touched, NOW), Err(expect), "byte {at}");
        assert_eq!(ring.open(&scope("acme"), &ticket[..at], NOW), Err(Refused::Invalid), "{at} bytes");
    }
    let longer = [ticket.as_slice(), &[0]].concat();
    assert_eq!(ring.open(&scope("acme"), &longer, NOW), Err(Refused::Invalid));
    // The name of another key of the set.
    let mut renamed = ticket;
    renamed[..NAME_LEN].fill(2);
    assert_eq!(ring.open(&scope("acme"), &renamed, NOW), Err(Refused::Invalid));
}

#[test]
fn what_is_too_long_is_neither_made_nor_looked_at() {
    let ring = Keyring::new(keys(0));
    let most = vec![7; TICKET - OVERHEAD];
    let ticket = ring.seal(&scope("acme"), &most, NOW).unwrap();
    assert_eq!(ring.open(&scope("acme"), &ticket, NOW), Ok(most.clone()));
    assert_eq!(ring.seal(&scope("acme"), &[most.as_slice(), &[7]].concat(), NOW), None);
    assert_eq!(ring.open(&scope("acme"), &[ticket.as_slice(), &[0]].concat(), NOW), Err(Refused::Invalid));
}

#[test]
fn a_ticket_lives_for_its_time_through_one_rotation() {
    let first = keys(0);
    let period = api::tickets::PERIOD.as_secs();
    let late = NOW + period - 1;
    let ticket = Keyring::new(first.clone()).seal(&scope("acme"), SESSION, late).unwrap();
    let second = first.rotated(NOW + period, &mut || ([9; 16], [9; 32])).unwrap();
    let ring = Keyring::new(second.clone());
    let open = |ring: &Keyring, at| ring.open(&scope("acme"), &ticket, at);
    assert!(open(&ring, late + LIFETIME.as_secs() - 1).is_ok());
    assert_eq!(open(&ring, late + LIFETIME.as_secs()), Err(Refused::Old));
    // Who was not told of the rotation has the next key all the same.
    let told = ring.seal(&scope("acme"), SESSION, NOW + period).unwrap();
    assert!(Keyring::new(first).open(&scope("acme"), &told, NOW + period).is_ok());
    let third = second.rotated(NOW + 2 * period, &mut || ([10; 16], [10; 32])).unwrap();
    assert_eq!(open(&Keyring::new(third), NOW + period), Err(Refused::Unknown));
    assert!(open(&ring, late - 100).is_ok(), "given by a worker whose clock is ahead");
}

/// A worker's tickets, with the configuration that they look at.
fn tickets() -> (Arc<Tickets>, Arc<ArcSwap<Config>>) {
    let pool = PoolSettings::new("default".parse().unwrap());
    let config = Arc::new(ArcSwap::from_pointee(Config::empty(pool)));
    (Arc::new(Tickets::new(&config, Arc::default())), config)
}

#[test]
fn own_keys_stay_when_the_configuration_changes_and_given_ones_take_their_place() {
    let (tickets, config) = tickets();
    let ticketer = tickets.within(scope("acme"));
    let ticket = ticketer.encrypt(SESSION).unwrap();
    let pool = || PoolSettings::new("default".parse().unwrap());
    config.store(Arc::new(Config { revision: Revision(2), ..Config::empty(pool()) }));
    assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(SESSION));
    assert_eq!(tickets.within(scope("globex")).decrypt(&ticket), None);

    let given = Arc::new(Keyring::new(keys(0)));
    config.store(Arc::new(Config { ticket_keys: Some(given), ..Config::empty(pool()) }));
    assert_eq!(ticketer.decrypt(&ticket), None);
    let ticket = ticketer.encrypt(SESSION).unwrap();
    assert_eq!(ticket[..NAME_LEN], [1; NAME_LEN]);
    assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(SESSION));

    let counters = &tickets.counters;
    let counted = [
        &counters.tickets_issued,
        &counters.tickets_accepted,
        &counters.tickets_unknown,
        &counters.tickets_refused,
    ];
    assert_eq!(counted.map(crate::metrics::Counter::value), [2, 2, 1, 1]);
}

#[test]
fn own_keys_are_rotated_by_whoever_seals_or_opens_first() {
    let (tickets, _config) = tickets();
    let name = |at| tickets.with_keys(at, |keys| keys.keys.keys()[keys.keys.current(at)].name);
    let now = now_s();
    let period = api::tickets::PERIOD.as_secs();
    let first = name(now);
    assert_eq!(name(now + period / 2), first);
    let second = name(now + period);
    assert_ne!(second, first);
    assert_ne!(name(now + 2 * period), second);
}
