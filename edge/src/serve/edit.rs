//! Changes to heads: who the client is, what the route's filters say.

use model::{CompiledMatch, Filter, HeaderEdit, PathModifier, path};

use super::record::Record;
use crate::{
    downstream::Client,
    h1::{Fields, Name, RequestHead, ResponseHead, Scheme},
    limits::ALT_SVC_AGE_S,
};

/// Applies a filter: set, then add, then remove. Names and values were checked when they were compiled; one that
/// could not be a field all the same is left out.
pub(super) fn apply(fields: &mut Fields, change: &HeaderEdit) {
    for (name, value) in &change.set {
        let _checked = fields.set(name, value.as_bytes());
    }
    for (name, value) in &change.add {
        let _checked = fields.push(name, value.as_bytes());
    }
    for name in &change.remove {
        fields.remove(name);
    }
}

/// Applies the filters that change responses.
pub(super) fn response(head: &mut ResponseHead, filters: &[Filter]) {
    for filter in filters {
        if let Filter::ResponseHeaders(change) = filter {
            apply(&mut head.fields, change);
        }
    }
}

/// Says that the same port serves HTTP/3 by UDP (RFC 7838). The port is the one that the client named: it may be mapped on
/// its way to us.
pub(super) fn advertise_h3(head: &mut ResponseHead, port: Option<u16>) {
    let (mut port_digits, mut age_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
    let port = port_digits.format(port.unwrap_or(Scheme::Https.default_port()));
    let age = age_digits.format(ALT_SVC_AGE_S);
    // 31 bytes at most.
    let (mut value, mut len) = ([0; 40], 0);
    for part in ["h3=\":", port, "\"; ma=", age] {
        value[len..len + part.len()].copy_from_slice(part.as_bytes());
        len += part.len();
    }
    // Printable ASCII is a valid value.
    let _valid = head.fields.set_known(Name::AltSvc, &value[..len]);
}

/// Says who the client is, in place of whatever the client said of itself.
pub(super) fn identify(head: &mut RequestHead, client: &Client, certificate: Option<&str>, record: &Record) {
    head.fields.remove_each(says_who_asks);
    // An address, a scheme and a checked host are valid values; an HTTP/1.0 request without a host is the only one with an empty
    // one.
    let _valid = head.fields.push_known(Name::XForwardedFor, client.address.as_bytes());
    let _valid = head.fields.push_known(Name::XForwardedProto, client.scheme.as_str().as_bytes());
    let _valid = head.tell_authority(Name::XForwardedHost);
    if let Some(certificate) = certificate {
        // Of printable ASCII.
        let _valid = head.fields.push_known(Name::XForwardedClientCert, certificate.as_bytes());
    }
    record.name(&mut head.fields);
}

/// Whether a field is the gateway's to say.
const fn says_who_asks(name: Name) -> bool {
    matches!(
        name,
        Name::Forwarded
            | Name::XForwardedFor
            | Name::XForwardedHost
            | Name::XForwardedPort
            | Name::XForwardedProto
            | Name::XRealIp
            | Name::XForwardedClientCert
    )
}

/// The path with a rewrite or redirect applied.
pub(super) fn modified_path(path: &str, modifier: &PathModifier, matched: &CompiledMatch) -> String {
    match modifier {
        PathModifier::ReplaceFull(new) => new.clone(),
        PathModifier::ReplacePrefix(new) => {
            path::replace_prefix(path, matched.prefix_len().unwrap_or(0), new)
        }
    }
}
