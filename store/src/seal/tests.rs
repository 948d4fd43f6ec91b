use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn sealer() -> (tempfile::TempDir, Sealer) {
    let dir = tempfile::tempdir().unwrap();
    let sealer = Sealer::from_file(&dir.path().join("kek")).unwrap();
    (dir, sealer)
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

#[test]
fn what_is_sealed_opens_again_also_after_a_restart() {
    let (dir, sealer) = sealer();
    for text in [&b""[..], b"secret", &[7; 5000]] {
        let sealed = sealer.seal(&tenant("acme"), "objects/a", text).unwrap();
        assert_eq!(sealed.len(), text.len() + OVERHEAD);
        assert_eq!(sealer.open(&tenant("acme"), "objects/a", &sealed).unwrap(), text);
        let restarted = Sealer::from_file(&dir.path().join("kek")).unwrap();
        assert_eq!(restarted.open(&tenant("acme"), "objects/a", &sealed).unwrap(), text);
    }
}

#[test]
fn a_sealed_value_shows_nothing_and_is_never_the_same_twice() {
    let (_dir, sealer) = sealer();
    let seal = || sealer.seal(&tenant("acme"), "k", b"0123456789abcdef").unwrap();
    let (one, two) = (seal(), seal());
    assert_ne!(one, two);
    assert!(!one.windows(8).any(|window| window == b"01234567"));
}

#[test]
fn a_sealed_value_cannot_be_moved_or_changed() {
    let (_dir, sealer) = sealer();
    let sealed = sealer.seal(&tenant("acme"), "objects/a", b"secret").unwrap();
    for (owner, key) in [("acme", "objects/b"), ("bob", "objects/a")] {
        let opened = sealer.open(&tenant(owner), key, &sealed);
        assert!(matches!(opened, Err(SealError::NotAuthentic { .. })), "{opened:?}");
    }
    for byte in 0..sealed.len() {
        let mut changed = sealed.to_vec();
        changed[byte] ^= 1;
        assert!(sealer.open(&tenant("acme"), "objects/a", &changed).is_err(), "byte {byte}");
    }
    for cut in 0..sealed.len() {
        assert!(sealer.open(&tenant("acme"), "objects/a", &sealed[..cut]).is_err(), "cut {cut}");
    }
}

#[test]
fn another_installations_key_is_named() {
    let ((_one, one), (_two, two)) = (sealer(), sealer());
    let sealed = one.seal(&tenant("acme"), "k", b"secret").unwrap();
    let error = two.open(&tenant("acme"), "k", &sealed).unwrap_err();
    assert!(matches!(error, SealError::OtherKey { .. }), "{error}");
}

#[test]
fn the_key_file_is_private_and_kept() {
    let (dir, _sealer) = sealer();
    let path = dir.path().join("kek");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Sealer::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "weir-kek-1 00 11\n").unwrap();
    assert!(matches!(Sealer::from_file(&path), Err(SealError::BadFile { .. })));
}

#[test]
fn a_data_key_is_drawn_anew_after_its_uses() {
    let (_dir, sealer) = sealer();
    let wrapped = |sealed: &Bytes| sealed.slice(..1 + ID + NONCE_LEN + WRAPPED);
    let one = sealer.seal(&tenant("acme"), "k", b"x").unwrap();
    assert_eq!(wrapped(&one), wrapped(&sealer.seal(&tenant("acme"), "k", b"x").unwrap()));
    sealer.state().data_keys.get_mut(&tenant("acme")).unwrap().uses = USES;
    assert_ne!(wrapped(&one), wrapped(&sealer.seal(&tenant("acme"), "k", b"x").unwrap()));
}

#[test]
fn a_key_that_is_added_is_read_and_seals_when_it_is_chosen() {
    let (dir, sealer) = sealer();
    let path = dir.path().join("kek");
    let [old] = sealer.keys()[..] else { panic!("one key") };
    let before = sealer.seal(&tenant("acme"), "k", b"secret").unwrap();
    let new = add_key(&path).unwrap();
    assert_eq!(key_ids(&path).unwrap(), [old, new]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(sealer.keys(), [old], "not read yet");
    assert!(sealer.reload().unwrap() && !sealer.reload().unwrap());
    assert_eq!((sealer.keys(), sealer.sealing_key()), (vec![old, new], old));

    sealer.use_key(new);
    let after = sealer.seal(&tenant("acme"), "k", b"secret").unwrap();
    assert_eq!((key_of(&before), key_of(&after)), (Some(old), Some(new)));
    let resealed = sealer.reseal(&tenant("acme"), "k", &before).unwrap().unwrap();
    assert_eq!(key_of(&resealed), Some(new));
    assert_eq!(sealer.reseal(&tenant("acme"), "k", &resealed).unwrap(), None, "it is already");

    assert!(drop_key(&path, old).unwrap() && !drop_key(&path, old).unwrap());
    assert!(sealer.reload().unwrap());
    for sealed in [&after, &resealed] {
        assert_eq!(sealer.open(&tenant("acme"), "k", sealed).unwrap(), b"secret");
    }
    let error = sealer.open(&tenant("acme"), "k", &before).unwrap_err();
    assert!(matches!(error, SealError::OtherKey { sealed, .. } if sealed == old), "{error}");
    assert!(drop_key(&path, new).unwrap_err().to_string().contains("only key"));
}

#[test]
fn a_value_of_a_newer_key_makes_the_file_be_read_again() {
    let (dir, one) = sealer();
    let path = dir.path().join("kek");
    let new = add_key(&path).unwrap();
    let other = Sealer::from_file(&path).unwrap();
    other.use_key(new);
    let sealed = other.seal(&tenant("acme"), "k", b"secret").unwrap();
    assert_eq!(one.open(&tenant("acme"), "k", &sealed).unwrap(), b"secret");
}

#[test]
fn nothing_is_sealed_without_the_key_that_was_chosen() {
    let ((_dir, sealer), (_other_dir, other)) = (sealer(), sealer());
    let chosen = other.sealing_key();
    sealer.use_key(chosen);
    let error = sealer.seal(&tenant("acme"), "k", b"secret").unwrap_err();
    assert!(matches!(error, SealError::Lacking { wanted } if wanted == chosen), "{error}");
}

#[test]
fn keys_that_are_added_at_once_are_all_kept() {
    let (dir, _sealer) = sealer();
    let path = &dir.path().join("kek");
    let added: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(move || add_key(path).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let ids = key_ids(path).unwrap();
    assert!(added.iter().all(|id| ids.contains(id)) && ids.len() == 9);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
}
