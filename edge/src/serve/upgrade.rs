//! Requests that change protocols: `Upgrade` of HTTP/1.1 (RFC 9110 section 7.8), and the extended CONNECT of HTTP/2 and
//! HTTP/3 (RFC 8441, RFC 9220), which is served as the `Upgrade` that it stands for.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use model::RouteId;

use super::{Incoming, Place, refusal::Refusal};
use crate::{
    downstream::tunnel::Tunnel,
    drain::{OpenedBy, TunnelRoute},
    h1::{Name, RequestHead, ResponseHead, Upgrade, Version},
    upstream::exchange::Exchange,
};

const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// Turns the head of an extended CONNECT for `websocket` into that of an upgrade: the key that HTTP/1.1 wants is ours.
pub(crate) fn ask_for_websocket(head: &mut RequestHead) -> Upgrade {
    let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
    // Constants and base64 are valid values.
    let _valid = head.fields.set_known(Name::Upgrade, b"websocket");
    let _valid = head.fields.set(KEY, key.as_bytes());
    Upgrade::WebSocket
}

/// Whether the client asked by an extended CONNECT, so that the key was ours.
fn is_extended(request: &RequestHead) -> bool {
    request.version() > Version::Http11
}

/// The tunnel that an upstream's 101 opens, and the head that tells the client so.
///
/// # Errors
/// The client did not ask for one, or the upstream speaks something else.
pub(super) fn switch(
    exchange: Exchange,
    head: &mut ResponseHead,
    incoming: &Incoming<'_>,
    place: &Place<'_>,
) -> Result<Tunnel, Refusal> {
    let upgrade = incoming.upgrade.ok_or(Refusal::UnaskedUpgrade)?;
    if is_extended(&incoming.head) {
        if !accepts(&incoming.head, head) {
            return Err(Refusal::NotSwitched);
        }
        head.fields.remove(ACCEPT);
        head.set_status(200);
    }
    // HTTP/2 has no 101.
    let (upstream, occupied) = exchange.into_tunnel().ok_or(Refusal::UnaskedUpgrade)?;
    let route = TunnelRoute {
        tenant: place.tenant.clone(),
        host: incoming.head.host().to_owned(),
        opened_by: OpenedBy::Route(RouteId(place.found.route_id().to_owned())),
    };
    Ok(Tunnel { upstream, occupied: Some(occupied), websocket: upgrade == Upgrade::WebSocket, route })
}

/// Whether a response without a tunnel may be passed on: to an extended CONNECT, success would mean that there is one.
///
/// # Errors
/// [`Refusal::NotSwitched`].
pub(super) fn allow(incoming: &Incoming<'_>, status: u16) -> Result<(), Refusal> {
    let promised = incoming.upgrade.is_some() && is_extended(&incoming.head);
    if promised && (200..300).contains(&status) { Err(Refusal::NotSwitched) } else { Ok(()) }
}

/// Whether the upstream's answer is to our key (RFC 6455 section 4.1).
fn accepts(request: &RequestHead, response: &ResponseHead) -> bool {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let Some(key) = request.fields.joined(KEY) else { return false };
    let expected = BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&key, GUID].concat()));
    let is_websocket = |upgrade: &[u8]| upgrade.eq_ignore_ascii_case(b"websocket");
    response.fields.known(Name::Upgrade).is_some_and(is_websocket)
        && response.fields.joined(ACCEPT).is_some_and(|accept| *accept == *expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    #[test]
    fn an_answer_belongs_to_its_key() {
        let mut request = RequestHead::from_parts("GET", "a.test", "/", Version::Http2).unwrap();
        assert_eq!(ask_for_websocket(&mut request), Upgrade::WebSocket);
        assert_eq!(request.fields.joined(KEY).unwrap().len(), 24);
        request.fields.set(KEY, b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        let response = |upgrade: &[u8], accept: &[u8]| {
            ResponseHead::new(101).with("upgrade", upgrade).unwrap().with(ACCEPT, accept).unwrap()
        };
        assert!(accepts(&request, &response(b"WebSocket", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!accepts(&request, &response(b"websocket", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOp=")));
        assert!(!accepts(&request, &response(b"h2c", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    }
}
