use tonic::Code;

use super::*;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn principal(role: Role) -> Principal {
    Principal { role, actor: "test".into(), origin: String::new(), token: None }
}

#[test]
fn a_tenants_role_ends_at_its_tenant() {
    let (a, b) = (tenant("a"), tenant("b"));
    let admin = principal(Role::TenantAdmin(a.clone()));
    assert!(admin.may_read(&a).is_ok() && admin.may_write(&a).is_ok());
    assert_eq!(admin.may_read(&b).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(admin.may_write(&b).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(admin.is_platform_admin().unwrap_err().code(), Code::PermissionDenied);
    // Nor is the installation its own.
    assert!(admin.may_read(&TenantId::platform()).is_err());

    let viewer = principal(Role::TenantViewer(a.clone()));
    assert!(viewer.may_read(&a).is_ok());
    assert_eq!(viewer.may_write(&a).unwrap_err().code(), Code::PermissionDenied);

    let platform = principal(Role::PlatformAdmin);
    assert!(platform.may_write(&b).is_ok() && platform.is_platform_admin().is_ok());
}

#[test]
fn tokens_are_long_random_and_found_by_their_hash() {
    let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
    assert_ne!(one, two);
    assert!(one.reveal().starts_with("weir_") && one.reveal().len() == 5 + 43, "{}", one.reveal());
    assert_eq!(Token::parse(one.reveal()), Some(one.clone()));
    let record = TokenRecord { hash: one.hash(), role: Role::PlatformAdmin, created_at_ms: 0 };
    assert!(record.is_of(&one) && !record.is_of(&two));
    assert!(!record.label().contains(&one.hash()) && format!("{one:?}") == "Token(..)");
}

#[test]
fn what_is_no_token_is_not_looked_up() {
    for bad in ["", "weir_", "weir_short", "x", &format!("weir_{}", "!".repeat(43))] {
        assert_eq!(Token::parse(bad), None, "{bad}");
    }
}

#[test]
fn what_is_not_in_the_table_is_closed() {
    assert_eq!(need_of("/weir.admin.v1.Objects/Steal"), None);
    assert_eq!(need_of(""), None);
    assert_eq!(need_of("/weir.store.v1.Peers/Steal"), None);
    assert_eq!(need_of("/weir.store.v1.Peers/Send"), Some(Need::Certificate(&[api::pki::RoleKind::Server])));
}
